# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Families of sums of a fixed number of independent draws."""

import math
from typing import Any, ClassVar

from torch import Tensor

from pyro_blr.errors import ArgumentError
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.registry import unwrap

# Above 2^53 neighbouring integers are one float64, and counts could not be told apart.
_LARGEST = 2**53


class CountedFamily(ExponentialFamily):
    """The law of the sum of ``total_count`` independent draws from a family with h = 1.

    The natural parameters are those of one draw, the log-partition and the mean parameters
    ``total_count`` times as large; h(z) is the number of ways in which the draws sum to z.

    :param total_count: the number of draws, fixed: two counts are two families.
    :raises ArgumentError: if it is not one positive number (an integer, if draws are counted).
    """

    unit: ClassVar[ExponentialFamily]
    """The family of one draw."""

    fractional: ClassVar[bool] = False
    """Whether the count may be any positive number."""

    total_count: int | float

    def __init__(self, total_count: int | float | Tensor = 1) -> None:
        self.total_count = self._checked(total_count)

    def for_distribution(self, distribution: Any) -> ExponentialFamily:
        """Return the family with the distribution's count."""
        return type(self)(unwrap(distribution).total_count)

    def require_count(self, total_count: int | float | Tensor) -> None:
        """Raise an ArgumentError if a distribution's count is another one than the family's."""
        given = self._checked(total_count)
        if given != self.total_count:
            raise ArgumentError(
                f"A {self.distribution_type.__name__} of {given} draws is not in the family "
                f"{self!r}. Mend: use {type(self).__name__}({given}), as find_family does."
            )

    def _checked(self, total_count: int | float | Tensor) -> int | float:
        count = total_count
        if isinstance(count, Tensor):
            lowest, highest = (bound.item() for bound in count.detach().aminmax())
            if lowest != highest:
                raise ArgumentError(
                    f"{self.name} has one total_count, and these are from {lowest} to {highest}. "
                    "Mend: use a family for each count."
                )
            count = lowest
        allowed = 0 < count <= _LARGEST and (self.fractional or count == math.floor(count))
        if not allowed:
            kind = "number" if self.fractional else "integer"
            raise ArgumentError(
                f"{self.name} cannot count {count} draws. Mend: give one positive {kind} up to "
                "2^53 as total_count."
            )
        return float(count) if self.fractional else int(count)

    def log_partition(self, natural: Natural) -> Tensor:
        return self.total_count * self.unit.log_partition(natural)

    def mean_params(self, natural: Natural) -> MeanParams:
        return tuple(self.total_count * mean for mean in self.unit.mean_params(natural))

    def natural(self, mean_params: MeanParams) -> Natural:
        return self.unit.natural(tuple(mean / self.total_count for mean in mean_params))

    def in_domain(self, natural: Natural) -> Tensor:
        return self.unit.in_domain(natural)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        solved = self.unit.inverse_fisher(natural, covector)
        return tuple(change / self.total_count for change in solved)

    def entropy(self, natural: Natural) -> Tensor:
        # Of the draws one by one, less what their sum does not tell: their order.
        ordered = self.total_count * self.unit.entropy(natural)
        return ordered - self.expected_log_base_measure(natural)

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        return self.total_count * self.unit.kl(natural_q, natural_p)
