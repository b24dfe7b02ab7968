# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The objective of a step where some blocks of q move in other coordinates than natural ones."""

from typing import Any

from torch import Tensor

from .energy.draws import Draws
from .energy.value import Value
from .families import Natural
from .guides.views.charts import ChartedBlock
from .lifting.blocks import Block
from .lifting.moments import Moments
from .objective import EnergyObjective, Naturals


class ChartedObjective(EnergyObjective):
    """As :class:`EnergyObjective`, with charted blocks in the places of their own.

    :param charts: the charted blocks.
    """

    def __init__(self, charts: tuple[ChartedBlock, ...], *given: Any) -> None:
        super().__init__(*given)
        self._charts: dict[Block, ChartedBlock] = {c.inner: c for c in charts}
        self._at: dict[Block, tuple[Natural, Natural]] = {}
        self._evaluated: Naturals = {}

    def with_draws(self, draws: Draws | None) -> EnergyObjective:
        return objective_of(tuple(self._charts.values()), self.energy, draws, self.cache, self.call)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of q, those in charts as charted."""
        return tuple(self._charts.get(b, b) for b in self.energy.blocks)

    def _moments(self, naturals: Naturals) -> dict[Block, Moments]:
        return super()._moments(self.by_block(naturals))

    def by_block(self, naturals: Naturals, differentiable: bool = False) -> dict[Block, Natural]:
        """Natural parameters of every block, from those in charts."""
        result = dict(naturals)
        for inner, chart in self._charts.items():
            theta = result.pop(chart)
            if differentiable:
                result[inner] = chart.chart.natural(theta)
                continue
            if inner not in self._at or self._at[inner][0] is not theta:
                natural = chart.chart.natural(theta)
                self._at[inner] = theta, tuple(n.detach() for n in natural)
            result[inner] = self._at[inner][1]
        return result

    def evaluate(self, naturals: Naturals, touching: Block | None = None) -> Value:
        self._evaluated = naturals
        return super().evaluate(naturals, _inner(touching))

    def value(self, naturals: Naturals, touching: Block | None = None) -> Value:
        return super().value(naturals, _inner(touching))

    def natural_messages(self, naturals: Naturals) -> dict[Block, Natural]:
        parts = (super(ChartedObjective, self).messages(naturals, b) for b in self.energy.blocks)
        return {block: message for part in parts for block, message in part.items()}

    def messages(self, naturals: Naturals, only: Block | None = None) -> dict[Block, Natural]:
        blocks = self.blocks if only is None else (only,)
        result = {}
        for block in blocks:
            (message,) = super().messages(naturals, _inner(block)).values()
            result[block] = self._message(block, message, naturals)
        return result

    def _message(self, block: Block, message: Natural, naturals: Naturals) -> Natural:
        if not isinstance(block, ChartedBlock):
            return message
        return block.chart.message(naturals[block], message)

    def messages_of(self, value: Value, blocks: tuple[Block, ...]) -> dict[Block, Natural]:
        """The messages from the last evaluation."""
        found = super().messages_of(value, tuple(_inner(b) for b in blocks))
        return {b: self._message(b, found[_inner(b)], self._evaluated) for b in blocks}

    def is_linear_in(self, block: Block) -> bool:
        """Whether L is linear: in a chart it is not."""
        return not isinstance(block, ChartedBlock) and super().is_linear_in(block)

    def is_conjugate_in(self, block: Block) -> bool:
        """Whether a full step is exact: in a chart it is not, as the map is not linear."""
        return not isinstance(block, ChartedBlock) and super().is_conjugate_in(block)

    def is_coupled_in(self, block: Block) -> bool:
        """Whether rho = 1 may diverge: in a chart it may."""
        return isinstance(block, ChartedBlock) or super().is_coupled_in(block)

    def negative_elbo(self, naturals: Naturals) -> Tensor:
        return super().negative_elbo(self.by_block(naturals, differentiable=True))


def _inner(block: Any) -> Any:
    return block.inner if isinstance(block, ChartedBlock) else block


def objective_of(charts: tuple[ChartedBlock, ...], *given: Any) -> EnergyObjective:
    """The objective of a call, in charts where the guide has them.

    :param given: the arguments of :class:`EnergyObjective`.
    """
    return ChartedObjective(charts, *given) if charts else EnergyObjective(*given)
