# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The automatic guide: the families and the blocks that the model's own messages call for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .. import errors
from ..energy.at_prior import block_of
from ..energy.chains import find_chains, is_short
from ..energy.joining import join, rows_move_alone
from ..energy.latents import Latent
from ..energy.merging import MAX_BLOCK_SIZE, merge
from ..energy.networks import independent_blocks
from ..energy.sharing import share
from ..energy.traced import Traced
from ..lifting.blocks import Block
from .choice import TraceLatents, choose_latents
from .natural_guide import NaturalGuide


class AutoNatural(NaturalGuide):
    """One exponential family for each latent, chosen from the model, held in natural coordinates.

    A latent gets the family that its own messages call for (Gamma for a precision, Beta, Dirichlet,
    Normal); where the model is not conjugate in it, a Gaussian on the unconstrained space. Discrete
    latents are part of it under ``BLR(..., discrete="factorised")`` alone.

    :param callable model: a Pyro model.
    :param families: a family by site name, to override the choice: ``{"tau": Gamma}``.
    :param at_prior: the latents, by name, that q leaves at their prior given the others,
        ``q(f | u) = p(f | u)``: Gaussians, as large as each call has them, of which the guide holds
        nothing (the values of a sparse Gaussian process).
    :param init_loc_fn: where a Gaussian starts, as for Pyro's own guides.
    :param init_scale: its standard deviation at the start, on the unconstrained space.
    :param create_plates: as for every ``AutoGuide``.
    :raises NoLatentError: at the first call, if the model has no latent.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        *,
        families: Mapping[str, Any] | None = None,
        at_prior: Sequence[str] = (),
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        self.families = dict(families or {})
        self.at_prior = _names(at_prior)
        both = sorted(set(self.at_prior) & set(self.families))
        if both:
            raise errors.ArgumentError(
                f"{both} are to stay at their prior, and have a family as well. Mend: leave them "
                "out of families, or of at_prior."
            )

    def _choose(self, sites: Mapping[str, Any], trace: TraceLatents) -> dict[str, Latent]:
        unknown = sorted(set(self.families) - set(sites))
        if unknown:
            raise errors.ArgumentError(
                f"a family was given for {unknown}, which the model does not have as latents; it "
                f"has {sorted(sites)}. Mend: use the names of the sample sites."
            )
        return choose_latents(sites, self.families, trace)

    def lay_out(self, traced: Traced, how: str) -> tuple[str, ...]:
        """Choose the blocks of q: before the first step, and where a plate is subsampled later on.

        Coupled linear-Gaussian latents are merged, Gaussians joined with their own precisions, and
        covariances that are the same all along a plate held once.

        :param how: ``"auto"`` merges and joins, ``"site"`` keeps one block a site.
        :raises ArgumentError: if ``"site"`` is asked for where latents were merged before.
        """
        notes: tuple[str, ...] = ()
        noise = [block_of(n) for n in traced.noise.values()]
        blocks: list[Block] = [latent.block() for latent in self.latents.values()]
        if how == "auto":
            blocks, notes = self._merged(traced, noise)
        elif any(len(b.sites) > 1 for b in self.blocks):
            raise errors.ArgumentError(
                'blocks="site" was asked for, but the guide\'s latents were merged by another BLR. '
                "Mend: make a new guide."
            )
        blocks = [b for b in share([*blocks, *noise], traced) if b not in noise]
        notes = (*notes, *map(_kept, traced.noise))
        if [b.form for b in blocks] != [b.form for b in self.blocks]:
            self.merge(blocks)
        return notes

    def _merged(
        self, traced: Traced, noise: Sequence[Block]
    ) -> tuple[list[Block], tuple[str, ...]]:
        """The blocks of coupled latents, chains among them.

        A dense block that joins its precision says more than a chain beside it, and a short one
        that all rows of a plate share costs less than a chain for each.

        :param noise: of latents at their prior, with which nothing is merged.
        """
        latents = self.latents | traced.noise
        single, singly = independent_blocks(traced, latents, self.families)
        single += noise
        chains = find_chains(traced, latents, single)
        small = [c for c in chains if c.block.length * c.block.width <= MAX_BLOCK_SIZE]
        if small:
            large = [*single, *(c.block for c in chains if c not in small)]
            dense = share(join(merge(traced, latents, large)[0], traced), traced)
            better = [b for b in dense if b.is_joint or (b.row_dims and is_short(b))]
            held = {s.name for b in better for s in b.sites}
            chains = [c for c in chains if held.isdisjoint(s.name for s in c.block.sites)]
        blocks, notes = merge(traced, latents, [*single, *(c.block for c in chains)])
        blocks = [b for b in join(blocks, traced) if b not in noise]
        return blocks, (*singly, *(n for c in chains for n in c.notes), *notes)

    def suits(self, traced: Traced) -> bool:
        return rows_move_alone(self.blocks, traced)


def _kept(name: str) -> str:
    """The note on a latent at its prior."""
    return f"{name}: q leaves it at its prior given the others (at_prior), exactly"


def _names(given: Sequence[str]) -> tuple[str, ...]:
    """Names of sites, each once."""
    is_list = isinstance(given, Iterable) and not isinstance(given, str)
    if not is_list or not all(isinstance(name, str) for name in given):
        raise errors.ArgumentError(
            f'at_prior must be a sequence of names of sites, not {given!r}. Mend: at_prior=["f"].'
        )
    return tuple(dict.fromkeys(given))
