# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian guides over the unconstrained space of all sites, or of those that are named."""

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.arrow import arrow_blocks, coupled
from ..energy.latents import Latent, cut
from ..energy.merging import MAX_BLOCK_SIZE
from ..energy.traced import Traced
from ..families import (
    ArrowNormal,
    ExponentialFamily,
    MultivariateNormal,
    Natural,
    Normal,
)
from ..families.arrow_matrices import dense
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.arrow_moments import ArrowMoments
from ..lifting.blocks import Block, Placement
from ..lifting.moments import GaussianMoments
from .choice import TraceLatents, choose_latents
from .memory import check_arrow, check_dense, described, offered
from .natural_guide import NaturalGuide
from .posterior import detached

#: The largest latent vector for which ``structure="auto"`` takes a full matrix without looking for
#: a smaller one. As for merged blocks: 1024 elements need 8 MB a matrix and 0.05 s to factorise it.
MAX_DENSE = MAX_BLOCK_SIZE

STRUCTURES = ("auto", "dense", "arrow")


class GaussianGuide(NaturalGuide):
    """Named sites are Gaussian on their unconstrained space; the rest is chosen from the model.

    :param sites: the names; all latents if None.
    """

    def __init__(
        self, model: Callable[..., Any], *, sites: Iterable[str] | None = None, **options: Any
    ) -> None:
        super().__init__(model, **options)
        self.sites = None if sites is None else tuple(sites)

    def _choose(self, sites: Mapping[str, Any], trace: TraceLatents) -> dict[str, Latent]:
        unknown = sorted(set(self.sites or ()) - set(sites))
        if unknown:
            raise errors.ArgumentError(
                f"{type(self).__name__} was given the sites {unknown}, which the model does not "
                f"have as latents; it has {sorted(sites)}. Mend: use the names of the sample sites."
            )
        named = sites if self.sites is None else self.sites
        return choose_latents(sites, {name: Normal() for name in named}, trace)

    def _named(self) -> list[Latent]:
        """The latents that the guide is Gaussian in."""
        return [n for n in self.latents.values() if self.sites is None or n.name in self.sites]


class AutoNaturalNormal(GaussianGuide):
    """A Gaussian with a diagonal covariance, as Pyro's ``AutoNormal``, in natural coordinates.

    :param callable model: a Pyro model.
    :param sites: the sites that are Gaussian on their unconstrained space; all if left out. Others
        get what ``AutoNatural`` would choose.
    :param init_loc_fn: where q starts, as for Pyro's own guides.
    :param init_scale: its standard deviation at the start, on the unconstrained space.
    :param create_plates: as for every ``AutoGuide``.
    """


class AutoNaturalMultivariateNormal(GaussianGuide):
    """One Gaussian with a full covariance over all sites, as ``AutoMultivariateNormal``.

    The sites are slices of one latent vector, so cross-covariances enter every expectation: a
    factor of a positive site ``tau = exp(u)`` and of regression weights is evaluated under their
    joint law, exactly or by quadrature where :class:`AutoNatural` would. A constrained site is the
    image of its slice under ``torch.distributions.biject_to``.

    Where the elements of a plate are independent given the other latents, the precision matrix is
    an arrow-head: D^2 numbers become G^2 + N (G L + L^2) for G global numbers and N elements with L
    numbers each, a step costs O(N), and the optimum is that of the full matrix. One plate is taken,
    the one with the fewest numbers that the model's factors allow; of nested plates that is one,
    and the others lie within its elements. :meth:`~pyro_blr.BLR.explain` says which.

    :param callable model: a Pyro model.
    :param sites: the sites of the joint Gaussian; all if left out. Others get what ``AutoNatural``
        would choose, each for itself.
    :param str structure: ``"dense"``: one full matrix. ``"arrow"``: an arrow-head matrix along a
        plate. ``"auto"``: dense up to 1024 elements, beyond that an arrow-head if the model allows
        it, else dense. The plate is chosen at the first step of an engine; before it the guide's
        draws are those of independent sites, as where it starts.
    :param init_loc_fn: where q starts, as for Pyro's own guides.
    :param init_scale: its standard deviation at the start, on the unconstrained space.
    :param create_plates: as for every ``AutoGuide``.
    :raises ArgumentError: for another structure.
    :raises MemoryLimitError: before it is allocated, if the precision matrix would not fit.
    :raises GuideError: at a step under ``structure="arrow"``, if no plate has that structure.
    """

    def __init__(
        self, model: Callable[..., Any], *, structure: str = "auto", **options: Any
    ) -> None:
        super().__init__(model, **options)
        if structure not in STRUCTURES:
            raise errors.ArgumentError(
                f"structure must be one of {', '.join(map(repr, STRUCTURES))}, not {structure!r}."
            )
        self.structure = structure

    def _first_blocks(self) -> list[Block]:
        named = self._named()
        dense = self.structure == "dense" or (
            self.structure == "auto" and (self._size <= MAX_DENSE or not arrow_blocks(named))
        )
        if named and dense:
            return self._with_rest(self._dense())
        return [n.block() for n in self.latents.values()]  # until the model's factors are known

    def lay_out(self, traced: Traced, how: str) -> tuple[str, ...]:
        """Choose the plate of an arrow-head precision, or see that a model keeps to the one held.

        :raises GuideError: if there is none, or the model does not.
        """
        held = self._held_block()
        if not self._named() or (held is not None and not isinstance(held, ArrowBlock)):
            return ()
        refused = ["No latent of the joint Gaussian is in a plate."]
        for arrow in arrow_blocks(self._named()) if held is None else [held]:
            blocks = self._with_rest(arrow)
            layout = {s.name: b for b in blocks for s in b.sites}
            found = coupled(arrow, layout, traced)
            if not found.across:
                if held is None:
                    check_arrow(type(self).__name__, arrow, self._named()[0].device)
                    self.merge(blocks)
                return described(arrow, found)
            refused.append(f"Groups of the plate {arrow.plate!r} are not enough: {found.across}.")
        why = " ".join(refused[1:] or refused)
        if self.structure == "arrow" or held is not None:
            raise errors.GuideError(
                f"{type(self).__name__} finds no plate whose elements are independent given the "
                f"other latents. {why} Mend: structure='dense' if it fits, or "
                "AutoNaturalNormal(model)."
            )
        self.merge(self._with_rest(self._dense(why)))
        return (f"the joint Gaussian has a full covariance. {why}",)

    def _held_block(self) -> Block | None:
        """The joint block, or None while sites are apart, until the model's factors are known."""
        named = self._named()
        if not named:
            return None
        block = self.layout[named[0].name]
        whole = {n.name for n in named} == {s.name for s in block.sites}
        is_vector = not block.batch_shape and block.event_size is not None
        return block if whole and is_vector else None

    def _with_rest(self, joint: Block) -> list[Block]:
        """The joint block, and those of the latents outside it."""
        own = {s.name for s in joint.sites}
        return [joint, *(n.block() for n in self.latents.values() if n.name not in own)]

    def _dense(self, why: str = "") -> Block:
        """The block with a full covariance.

        :param why: why the precision is no arrow-head.
        """
        return joint_block(type(self).__name__, self._named(), why)

    @property
    def _size(self) -> int:
        """D, the length of the latent vector."""
        return sum(prod(latent.site.shape) for latent in self._named())

    def joint(self) -> tuple[Tensor, Tensor]:
        """The mean and the Cholesky factor of the covariance on the unconstrained space, float64.

        The order is that of ``latents``, each site's elements row by row. # shape: (D,), (D, D)

        :raises GuideError: before the structure is known.
        :raises MemoryLimitError: if the full covariance of an arrow-head would not fit.
        """
        block = self._held_block()
        if block is None:
            raise errors.GuideError(
                f"{type(self).__name__} chooses its structure at the first step of an engine. "
                "Mend: take a step first."
            )
        with torch.no_grad():
            natural = detached(self.naturals()[block])
            if isinstance(block, ArrowBlock):
                return self._joint_of_arrow(block, natural)
            moments = GaussianMoments(block, natural)
            return moments.mean.detach(), torch.linalg.cholesky(moments.covariance.detach())

    def _joint_of_arrow(self, block: ArrowBlock, natural: Natural) -> tuple[Tensor, Tensor]:
        """The same from an arrow-head, whose own order is the global sites, then group by group."""
        assert isinstance(block.family, ArrowNormal)
        check_dense(type(self).__name__, self._size, natural[0].device)
        factor = torch.linalg.cholesky(dense(block.family.precision(natural)))
        order = torch.arange(self._size, device=natural[0].device)
        order = torch.cat([cut(block, n.site, order, 0).flatten() for n in self._named()])
        covariance = torch.cholesky_inverse(factor)[order][:, order]
        mean = ArrowMoments(block, natural).mean.detach()
        return mean[order], torch.linalg.cholesky(covariance)


def joint_block(guide: str, latents: list[Latent], why: str = "") -> Block:
    """One Gaussian block whose slices are the latents' variables, one after the other.

    :param guide: the guide's name, for the error.
    :param why: why nothing smaller serves.
    :raises MemoryLimitError: if its precision matrix would not fit.
    """
    size = sum(prod(latent.site.shape) for latent in latents)
    check_dense(guide, size, latents[0].device, why or offered(arrow_blocks(latents)))
    return stacked(latents, MultivariateNormal())


def stacked(latents: list[Latent], family: ExponentialFamily) -> Block:
    """One block without batch dims, whose slices are the latents' variables."""
    placements, offset = {}, 0
    for latent in latents:
        placements[latent.name] = Placement((), offset)
        offset += prod(latent.site.shape)
    name = "+".join(n.name for n in latents)
    return Block(name, family, tuple(n.site for n in latents), (), offset, placements)
