# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A view: what makes the user's own guide one whose latents can be lifted."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from pyro import poutine

from ...energy.builder import EnergyBuilder
from ...energy.energy import Naturals
from ...energy.explanation import ParameterExplanation
from ...energy.latents import Latent
from ...energy.traced import Traced
from ...families import Natural
from ...lifting.blocks import Block
from ..protocol import check_domain
from .charts import ChartedBlock
from .points import PointSites


class View(ABC):
    """A guide as it is, seen in natural coordinates: it keeps its parameters and their constraints.

    Natural parameters are computed from the guide's own parameters each time they are asked for,
    and written back to these in place, so that whatever else reads the guide goes on working.

    :param guide: the user's guide.
    """

    #: Whether q is the posterior of some data: after a step, as the guide itself does not know.
    holds_posterior = False

    def __init__(self, guide: Any) -> None:
        self.guide = guide
        self.latents: Mapping[str, Latent] = {}
        self.layout: Mapping[str, Block] = {}
        #: The blocks that move in other coordinates than natural ones.
        self.charts: tuple[ChartedBlock, ...] = ()
        #: The sites that it holds as points: no latents of the model at these points.
        self.points: tuple[PointSites, ...] = ()

    @property
    def name(self) -> str:
        """The guide's name in tables and messages."""
        return type(self.guide).__name__

    @property
    def is_set_up(self) -> bool:
        """Whether the latents are known."""
        return bool(self.latents)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The independent units of q."""
        return tuple(dict.fromkeys(self.layout.values()))

    # What kinds of view decide

    @abstractmethod
    def find_latents(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Set ``latents`` and ``layout``; the guide has run once before."""

    @abstractmethod
    def naturals(self) -> dict[Block, Natural]:
        """The natural parameters of every block as they are now, in float64."""

    @abstractmethod
    def set_naturals(self, naturals: Naturals) -> None:
        """Write natural parameters inside their domain to the guide's own parameters, in place."""

    @abstractmethod
    def explain(self) -> dict[str, ParameterExplanation]:
        """How each parameter of the guide moves, by its full name."""

    # What they have in common

    def set_up(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], builder: EnergyBuilder | None = None
    ) -> None:
        """Run the guide once, as the first step of SVI would, and find its latents."""
        if not self.is_set_up:
            run_once(self.guide, args, kwargs)
            self.find_latents(args, kwargs)

    def write(self, naturals: Naturals) -> None:
        """Set natural parameters, in place.

        :raises DomainError: if they are not inside their domain; nothing is written then.
        """
        check_domain(naturals)
        with torch.no_grad():
            self.set_naturals(naturals)

    def lay_out(self, traced: Traced, how: str) -> tuple[str, ...]:
        """A user's guide keeps its own factorisation."""
        return ()

    def suits(self, traced: Traced) -> bool:
        """Whether the blocks serve a call: they are the guide's own, and always do."""
        return True


def run_once(guide: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Run a guide so that it creates its parameters, unless it has done so before."""
    if getattr(guide, "prototype_trace", None) is None:
        with torch.no_grad(), poutine.block():
            guide(*args, **kwargs)


def exactly(name: str, what: str = "") -> ParameterExplanation:
    """The explanation of a parameter that is written from natural parameters.

    :param what: what it is of them, where that does not go without saying.
    """
    reason = f"from the natural parameters: {what}" if what else ""
    return ParameterExplanation(name, "written", "", (name,), reason)
