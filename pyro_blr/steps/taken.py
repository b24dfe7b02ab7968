# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A step that was taken, and how long it is in the Fisher metric."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic

from ..families import Natural
from ..lifting import host
from .cone import inner, minus, squared_norm
from .objective import U


@dataclass(frozen=True, eq=False)
class Taken(Generic[U]):
    """A step that was taken; its change of natural parameters and their metric are found once.

    :param before: natural parameters where it began, of the blocks that move.
    :param after: where it ended, of these at least.
    """

    before: Mapping[U, Natural]
    after: Mapping[U, Natural]

    @cached_property
    def change(self) -> dict[U, Natural]:
        """By how much each block moved."""
        return {b: minus(self.after[b], n) for b, n in self.before.items()}

    @cached_property
    def metric(self) -> dict[U, Natural]:
        """F times the change of each block, F where it began."""
        return {b: b.family.fisher(n, self.change[b]) for b, n in self.before.items()}


def residual(
    naturals: Mapping[Any, Natural],
    messages: Mapping[Any, Natural],
    taken: Taken[Any] | None = None,
) -> float:
    """``d'Fd/2`` in nats, d = natural - message, summed over blocks: the length of a full step.

    :param taken: the step from there, which is the full one of blocks that end at their message.
    """
    total = 0.0
    for block, natural in naturals.items():
        if taken is not None and taken.after[block] is messages[block]:
            squared = inner(taken.metric[block], taken.change[block])
        else:
            squared = squared_norm(block.family, natural, minus(natural, messages[block]))
        total += 0.5 * host.number(squared)
    return total
