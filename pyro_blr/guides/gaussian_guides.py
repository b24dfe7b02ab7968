# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian guides over the unconstrained space of all sites, or of those that are named."""

from collections.abc import Callable, Iterable, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.latents import Latent
from ..families import MultivariateNormal, Normal
from ..lifting.blocks import Block, Placement
from ..lifting.moments import GaussianMoments
from .choice import TraceLatents, choose_latents
from .memory import check_memory
from .natural_guide import NaturalGuide
from .posterior import detached


class _GaussianGuide(NaturalGuide):
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


class AutoNaturalNormal(_GaussianGuide):
    """A Gaussian with a diagonal covariance, as Pyro's ``AutoNormal``, in natural coordinates.

    :param callable model: a Pyro model.
    :param sites: the sites that are Gaussian on their unconstrained space; all if left out. Others
        get what ``AutoNatural`` would choose.
    :param init_loc_fn: where q starts, as for Pyro's own guides.
    :param init_scale: its standard deviation at the start, on the unconstrained space.
    :param create_plates: as for every ``AutoGuide``.
    """


class AutoNaturalMultivariateNormal(_GaussianGuide):
    """One Gaussian with a full covariance over all sites, as ``AutoMultivariateNormal``.

    The sites are slices of one latent vector, so cross-covariances enter every expectation: a
    factor of a positive site ``tau = exp(u)`` and of regression weights is evaluated under their
    joint law, exactly or by quadrature where :class:`AutoNatural` would. A constrained site is the
    image of its slice under ``torch.distributions.biject_to``.

    :param callable model: a Pyro model.
    :param sites: the sites of the joint Gaussian; all if left out. Others get what ``AutoNatural``
        would choose, each for itself.
    :param init_loc_fn: where q starts, as for Pyro's own guides.
    :param init_scale: its standard deviation at the start, on the unconstrained space.
    :param create_plates: as for every ``AutoGuide``.
    :raises MemoryLimitError: at the first call, if the precision matrix would not fit.
    """

    def _first_blocks(self) -> list[Block]:
        named = self._named()
        rest = [n.block() for n in self.latents.values() if n not in named]
        return [self._joint(named), *rest] if named else rest

    def _joint(self, latents: list[Latent]) -> Block:
        placements, offset = {}, 0
        for latent in latents:
            placements[latent.name] = Placement((), offset)
            offset += prod(latent.site.shape)
        check_memory(type(self).__name__, offset, latents[0].device)
        name = "+".join(n.name for n in latents)
        sites = tuple(n.site for n in latents)
        return Block(name, MultivariateNormal(), sites, (), offset, placements)

    def joint(self) -> tuple[Tensor, Tensor]:
        """The mean and the Cholesky factor of the covariance on the unconstrained space, float64.

        The order is that of ``latents``, each site's elements row by row. # shape: (D,), (D, D)
        """
        block = self.layout[self._named()[0].name]
        with torch.no_grad():
            moments = GaussianMoments(block, detached(self.naturals()[block]))
            return moments.mean.detach(), torch.linalg.cholesky(moments.covariance.detach())
