# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Views of guides that are not in natural coordinates: one row of a table for a class of guides."""

from collections.abc import Mapping
from typing import Any

import torch
from pyro.infer import autoguide
from torch import Tensor

from ...families import Natural
from ...lifting.blocks import Block
from ..natural_guide import NaturalGuide
from ..protocol import LatentGuide
from .charts import ChartedBlock
from .gaussian import DiagonalNormalView, MultivariateNormalView, NormalView
from .low_rank import LowRankView
from .parts import ListView, NaturalPartView
from .points import at_points
from .units import NoView
from .view import View
from .written import WrittenView

#: The view of each class of guides; a guide has that of its most specific class.
VIEWS: dict[type, type[View]] = {
    NaturalGuide: NaturalPartView,
    autoguide.AutoNormal: NormalView,
    autoguide.AutoDiagonalNormal: DiagonalNormalView,
    autoguide.AutoMultivariateNormal: MultivariateNormalView,
    autoguide.AutoLowRankMultivariateNormal: LowRankView,
}


def view_of(
    guide: Any, sites: Mapping[str, Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> View:
    """The view of a guide: by its class, or by what one run of it says.

    :param sites: the sites of the model, by name.
    :raises NoView: if it has none, with the reason.
    """
    for ancestor in type(guide).__mro__:
        if ancestor in VIEWS:
            return VIEWS[ancestor](guide)
    if isinstance(guide, autoguide.AutoGuideList):
        return ListView(guide, [view_of(part, sites, args, kwargs) for part in guide])
    return WrittenView(guide, sites, args, kwargs)


def charts_of(view: Any) -> tuple[ChartedBlock, ...]:
    """The blocks of a guide that move in other coordinates than natural ones."""
    return view.charts if isinstance(view, View) else ()


def naturals_of(guide: LatentGuide) -> dict[Block, Natural]:
    """The natural parameters of every block, also of those that move in other coordinates."""
    with torch.no_grad():
        return {
            (b.inner if isinstance(b, ChartedBlock) else b): (
                b.chart.natural(n) if isinstance(b, ChartedBlock) else n
            )
            for b, n in guide.naturals().items()
        }


def points_of(view: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The values of the sites that a guide holds as points, by name."""
    points = view.points if isinstance(view, View) else ()
    return {name: v.detach() for p in points for name, v in p.values(args, kwargs).items()}


def parameters_of_points(view: Any) -> frozenset[str]:
    """The full names of the parameters of the sites that a guide holds as points."""
    points = view.points if isinstance(view, View) else ()
    return frozenset(name for p in points for name in p.parameters)


__all__ = [
    "VIEWS",
    "NoView",
    "View",
    "at_points",
    "charts_of",
    "naturals_of",
    "parameters_of_points",
    "points_of",
    "view_of",
]
