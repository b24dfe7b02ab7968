# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""One evaluation of a point mass's loss, and the same loss along a line."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from ..random_state import same_random_state, set_random_state

#: A loss that rises by so many times its rounding has not risen.
ROUNDING = 64.0


@dataclass(frozen=True, eq=False)
class Call:
    """One evaluation of the loss.

    :param own: the leaves of the guide, which Newton's step moves, by name; ``others`` the model's.
    :param gradients: of all of them.
    :param is_repeatable: whether the loss is the same when it is evaluated again.
    :param random: the state of the random numbers before.
    :param evaluate: the loss anew; a ``NonFiniteError`` where it is NaN.
    """

    loss: float
    value: Tensor
    own: dict[str, Tensor]
    others: dict[str, Tensor]
    gradients: dict[str, Tensor]
    is_subsampled: bool
    is_repeatable: bool
    random: dict[str, Any]
    evaluate: Callable[[], Tensor]

    @property
    def is_noisy(self) -> bool:
        return self.is_subsampled or not self.is_repeatable

    @property
    def slack(self) -> float:
        return ROUNDING * torch.finfo(self.value.dtype).eps * abs(self.loss)

    def again(self) -> float:
        """The loss at the leaves as they are now, of the same random numbers; NaN if it fails."""
        with pyro.validation_enabled(False), same_random_state():
            if not self.is_repeatable:
                set_random_state(self.random)
            try:
                # With its graph: TraceEnum_ELBO has no loss without one.
                return float(self.evaluate().detach())
            except (ValueError, RuntimeError):  # a trial step may leave what can be factored
                return math.nan


class Line:
    """The guide's leaves along a direction from where they are.

    :param call: whose loss is asked for.
    """

    def __init__(self, call: Call, direction: Sequence[Tensor]) -> None:
        self.call = call
        self.leaves = list(call.own.values())
        self.start = [leaf.detach().clone() for leaf in self.leaves]
        self.direction = direction

    def move(self, size: float) -> None:
        """Write start + size * direction."""
        with torch.no_grad():
            for leaf, s, d in zip(self.leaves, self.start, self.direction, strict=True):
                leaf.copy_(s + size * d)

    def loss(self, size: float) -> float:
        """The loss there."""
        self.move(size)
        return self.call.again()
