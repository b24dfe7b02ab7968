# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What the engine needs of a guide: latents, the blocks that hold them, and natural parameters."""

from collections.abc import Mapping
from typing import Any, Protocol

from .. import errors
from ..energy.builder import EnergyBuilder
from ..energy.energy import Naturals
from ..energy.latents import Latent
from ..energy.traced import Traced
from ..families import Natural
from ..lifting import host
from ..lifting.blocks import Block


class LatentGuide(Protocol):
    """A guide, or a view of one, whose latents can be lifted.

    ``NaturalGuide`` is one; the views of Pyro's own guides and of hand-written ones are others.
    """

    #: Whether q is the posterior of some data, and not where steps start.
    holds_posterior: bool

    @property
    def latents(self) -> Mapping[str, Latent]:
        """The latents, by site name."""

    @property
    def layout(self) -> Mapping[str, Block]:
        """The block that holds each site."""

    @property
    def is_set_up(self) -> bool:
        """Whether the latents are known."""

    def set_up(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], builder: EnergyBuilder | None = None
    ) -> None:
        """Find the latents at the first call; later ones do nothing."""

    def naturals(self) -> dict[Block, Natural]:
        """The natural parameters of every block as they are now, in float64."""

    def write(self, naturals: Naturals) -> None:
        """Set natural parameters, in place."""

    def lay_out(self, traced: Traced, how: str) -> tuple[str, ...]:
        """Choose the blocks for the factors of a model; return notes for the explanation."""

    def suits(self, traced: Traced) -> bool:
        """Whether the blocks serve a call."""


def check_domain(naturals: Naturals) -> None:
    """Refuse natural parameters that belong to no distribution, before they are written.

    :raises DomainError: if they are not inside their domain.
    """
    inside = [b.family.in_domain(n).all() for b, n in naturals.items()]
    for block, is_inside in zip(naturals, host.truths(inside), strict=True):
        if not is_inside:
            raise errors.DomainError(
                f"natural parameters outside the domain of {block.family.name} were refused for "
                f"{block.name!r}; the guide keeps its last good state. Mend: a smaller step_size; "
                "or, where the log density has no upper bound (the scale of a centred hierarchy "
                "at its mode is 0), another parameterisation (pyro.poutine.reparam) or prior."
            )
