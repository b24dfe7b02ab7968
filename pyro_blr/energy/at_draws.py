# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The factors at draws of q together: what their derivatives are, and what a draw costs."""

from collections.abc import Sequence
from dataclasses import dataclass

from .curvature import GAUSS_NEWTON
from .draws import Draws
from .sampled import HELD_NUMBERS, SampledFactor


@dataclass(frozen=True, eq=False)
class AtDraws:
    """The sampled factors of an energy.

    :param largest: the least that the sizes of their programs count as: those of the largest part
        of the data.
    """

    factors: Sequence[SampledFactor]
    largest: tuple[int, int]

    @property
    def have_jumps(self) -> bool:
        """Whether some factor's derivative along a draw is not its whole derivative."""
        return any(f.jumps for f in self.factors)

    @property
    def leave_curvature_out(self) -> bool:
        """Whether some factor's Hessian is Gauss and Newton's, whose fixed point is another one."""
        ways = (w for f in self.factors for w in f.ways.values())
        return any(way.name == GAUSS_NEWTON for way in ways)

    @property
    def have_network(self) -> bool:
        """Whether some factor is that of a network."""
        return any(f.is_network for f in self.factors)

    @property
    def are_in_parts(self) -> bool:
        """Whether draws whose graph is too large can be taken in parts."""
        return all(f.is_in_parts for f in self.factors)

    @property
    def numbers(self) -> int:
        """The numbers that their programs hold for one draw."""
        return max(sum(f.numbers for f in self.factors), self.largest[0])

    @property
    def operations(self) -> int:
        """How many operations these programs have."""
        return max(sum(f.operations for f in self.factors), self.largest[1])

    def fit_in_memory(self, draws: Draws | None) -> bool:
        """Whether memory holds the graph of all draws, as second derivatives in q need it."""
        return draws is None or draws.count * self.numbers <= HELD_NUMBERS
