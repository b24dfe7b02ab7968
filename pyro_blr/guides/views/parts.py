# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The view of an ``AutoGuideList``: the views of its parts, one beside the other."""

from collections.abc import Mapping, Sequence
from typing import Any

from ...energy.builder import EnergyBuilder
from ...energy.energy import Naturals
from ...energy.explanation import ParameterExplanation
from ...families import Natural
from ...lifting.blocks import Block
from .view import View


class NaturalPartView(View):
    """A guide in natural coordinates as a part of a list: with its first blocks, one a site.

    Its families are chosen in the part of the model that it was made from.
    """

    def set_up(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], builder: EnergyBuilder | None = None
    ) -> None:
        if not self.is_set_up:
            self.guide.set_up(args, kwargs)
            self.find_latents(args, kwargs)

    def find_latents(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.latents, self.layout = self.guide.latents, self.guide.layout

    def naturals(self) -> dict[Block, Natural]:
        return self.guide.naturals()  # type: ignore[no-any-return]

    def set_naturals(self, naturals: Naturals) -> None:
        self.guide.write(naturals)

    def explain(self) -> dict[str, ParameterExplanation]:
        """Its only parameters are natural ones, as everywhere."""
        return {}


class ListView(View):
    """Independent parts, each of which holds its own sites.

    :param parts: the views of the parts.
    """

    def __init__(self, guide: Any, parts: Sequence[View]) -> None:
        super().__init__(guide)
        self.parts = tuple(parts)

    def set_up(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], builder: EnergyBuilder | None = None
    ) -> None:
        for part in self.parts:
            part.set_up(args, kwargs, builder)
        if not self.is_set_up:
            self.find_latents(args, kwargs)

    def find_latents(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        for part in self.parts:
            self.latents = {**self.latents, **part.latents}
            self.layout = {**self.layout, **part.layout}
            self.charts = (*self.charts, *part.charts)
            self.points = (*self.points, *part.points)

    def naturals(self) -> dict[Block, Natural]:
        return {b: n for part in self.parts for b, n in part.naturals().items()}

    def set_naturals(self, naturals: Naturals) -> None:
        for part in self.parts:
            own = {*part.layout.values(), *part.charts}
            chosen = {b: n for b, n in naturals.items() if b in own}
            if chosen:
                part.set_naturals(chosen)

    def explain(self) -> dict[str, ParameterExplanation]:
        return {n: e for part in self.parts for n, e in part.explain().items()}
