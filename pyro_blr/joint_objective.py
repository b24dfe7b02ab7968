# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""-ELBO as a function of q and of the parameters together, for the certificate of a fit.

A step that maximises over q and then over the parameters can be short with a long way to go, as
coordinate ascent between two strongly coupled blocks can. So the gap is the Newton decrement of
-ELBO(q, theta) in all coordinates at once: the natural parameters of q, and each parameter in the
chart in which it ranges over all real numbers.
"""

import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from .energy.value import Value
from .families import Natural
from .families.base import derivative_times
from .lifting.low_rank_normal import LocalFamily, LowRankNormal
from .lifting.points import PointBlock
from .objective import EnergyObjective
from .steps.objective import Block, InvertibleGeometry, Naturals


@dataclass(frozen=True, eq=False)
class PointGeometry:
    """The chart of a point, with its complete-data information in the place of a Fisher matrix.

    :param message: the message at the point, which gives the information its size.
    """

    block: PointBlock
    message: Natural

    def mean_params(self, natural: Natural) -> Natural:
        """A map of the chart whose derivative is the information."""
        point = self.block.point
        return (point.mean_coordinates(self.message, point.point(natural[0])),)

    def fisher(self, natural: Natural, vector: Natural) -> tuple[Tensor, ...]:
        """The information times a vector."""
        return derivative_times(self.mean_params, natural, vector)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        """The inverse information times a covector."""
        point = self.block.point
        value = point.point(natural[0])
        return (point.inverse_information(self.message, value, covector[0]),)

    def symmetrize(self, covector: tuple[Tensor, ...]) -> Natural:
        """A covector as it is: no coordinate of a point is a matrix."""
        return covector

    def in_domain(self, natural: Natural) -> Tensor:
        """Whether each coordinate is a number."""
        return torch.isfinite(natural[0])


@dataclass(frozen=True, eq=False)
class ChartUnit:
    """A point, or a block of a curved family, as a unit of the joint objective.

    Its natural parameters are the chart of the point, or the coordinates of the curved family,
    whose geometry is taken where the certificate is.
    """

    name: str
    family: InvertibleGeometry


class JointObjective:
    """The ELBO of a traced call in the coordinates of q and of its points.

    :param naturals: natural parameters of q, and the points, ``(point,)`` each.
    """

    def __init__(self, objective: EnergyObjective, naturals: Naturals) -> None:
        self.objective = objective
        self.fixed = dict(naturals)
        self.naturals: dict[Block, Natural] = {}
        self._units: dict[ChartUnit, Block] = {}
        for block in objective.blocks:
            if isinstance(block.family, LowRankNormal):
                unit = ChartUnit(block.name, LocalFamily(block.family, naturals[block]))
                self._units[unit] = block
                self.naturals[unit] = naturals[block]
            else:
                self.naturals[block] = naturals[block]
        for block in objective.energy.points:
            if any(block in f.blocks for f in objective.energy.factors):
                assert isinstance(block, PointBlock)
                message = objective.messages(naturals, block)[block]
                unit = ChartUnit(block.name, PointGeometry(block, message))
                self._units[unit] = block
                self.naturals[unit] = (block.point.chart(naturals[block][0]),)

    def on(self, objective: EnergyObjective) -> "JointObjective":
        """The same coordinates and points of another estimate of the ELBO."""
        other = copy.copy(self)
        other.objective = objective
        return other

    @property
    def is_exact(self) -> bool:
        """Whether the ELBO is itself, and no estimate on draws."""
        return self.objective.is_exact

    def count_gradients(self, times: int) -> None:
        """Count so many gradients of the ELBO."""
        self.objective.count_gradients(times)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of q and the units of the points and of curved families."""
        return tuple(self.naturals)

    def by_block(self, naturals: Naturals) -> dict[Block, Natural]:
        """Natural parameters of q and points by block, from those in charts."""
        result = {**self.fixed, **{b: n for b, n in naturals.items() if b not in self._units}}
        for unit, block in self._units.items():
            chart = naturals[unit]
            is_point = isinstance(block, PointBlock)
            result[block] = (block.point.point(chart[0]),) if is_point else chart
        return result

    def value(self, naturals: Naturals, touching: Block | None = None) -> Value:
        """The ELBO without gradients."""
        own = self._units.get(touching) if isinstance(touching, ChartUnit) else touching
        return self.objective.value(self.by_block(naturals), own)

    def messages(self, naturals: Naturals, only: Block | None = None) -> dict[Block, Natural]:
        """The messages to the blocks of q; a curved family's by its unit."""
        own = self._units.get(only) if isinstance(only, ChartUnit) else only
        units = {block: unit for unit, block in self._units.items()}
        found = self.objective.messages(self.by_block(naturals), own)
        return {units.get(block, block): message for block, message in found.items()}

    def is_linear_in(self, block: Block) -> bool:
        """Whether L is linear in a block of q; of a point it is in its statistics alone."""
        return block not in self._units and self.objective.is_linear_in(block)

    def is_conjugate_in(self, block: Block) -> bool:
        """Whether a message is the exact update of a block of q."""
        return block not in self._units and self.objective.is_conjugate_in(block)

    def negative_elbo(self, naturals: Naturals) -> Tensor:
        """-ELBO, twice differentiable in coordinates that require a gradient."""
        return self.objective.negative_elbo(self.by_block(naturals))
