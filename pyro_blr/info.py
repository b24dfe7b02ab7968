# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What the last step did."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from .energy.value import Value
from .families import Natural
from .lifting.blocks import Block
from .objective import EnergyObjective
from .steps.cone import Safety
from .steps.sweep import ROUNDING
from .steps.taken import Taken, residual


@dataclass(eq=False, repr=False)
class Info:
    """Diagnostics of one step; what is dear is computed when it is asked for.

    :param float loss: -ELBO at the entry, in nats.
    :param bool searched: whether the step was a sweep whose ELBO does not fall.
    :param Safety safety: retractions, halved steps and refused steps, to stay inside the cone and
        to keep the ELBO from falling.
    """

    loss: float = float("nan")
    safety: Safety = field(default_factory=Safety)
    searched: bool = False
    _objective: Any = None
    _messages: Mapping[Block, Natural] = field(default_factory=dict)
    _taken: Taken[Any] = field(default_factory=lambda: Taken({}, {}))

    def __deepcopy__(self, memo: dict[int, Any]) -> "Info":
        return copy.copy(self)  # of what it was computed from nothing changes

    def __repr__(self) -> str:
        return f"Info(loss={self.loss:.6g}, searched={self.searched}, safety={self.safety})"

    @classmethod
    def of_step(
        cls,
        objective: EnergyObjective,
        value: Value,
        before: Mapping[Block, Natural],
        messages: Mapping[Block, Natural],
        after: Mapping[Block, Natural],
        safety: Safety,
        searched: bool,
    ) -> "Info":
        """The record of a step.

        :param before: natural parameters at its entry.
        """
        return cls(-value.elbo, safety, searched, objective, messages, Taken(before, after))

    @cached_property
    def loss_after(self) -> float:
        """-ELBO after the step, of the same traced call (and the same draws), in nats."""
        if self._objective is None:
            return float("nan")
        return -float(self._objective.value(self._taken.after).elbo)

    @cached_property
    def rounding(self) -> float:
        """By how much rounding may let the ELBO fall: 64 eps of the sum of its absolute terms."""
        if self._objective is None:
            return float("nan")
        return ROUNDING * float(self._objective.value(self._taken.before).magnitude)

    @property
    def is_exact(self) -> bool:
        """Whether the step reached the exact posterior of data that were read in parts."""
        if self._objective is None or self._objective.is_resident or not self.searched:
            return False
        messages = self._messages
        return self._objective.energy.has_constant_messages and all(
            block in messages and all(map(torch.equal, self._taken.after[block], messages[block]))
            for block in self._taken.before
        )

    @cached_property
    def residual(self) -> float:
        """``d'Fd/2`` in nats at the entry, d = natural - message: the length of a full step.

        NaN where no step was taken, or by a rule that has no natural parameters.
        """
        if self._objective is None:
            return float("nan")
        messages = self._messages
        if len(messages) < len(self._taken.before):
            messages = self._objective.messages(self._taken.before)
        return residual(self._taken.before, messages, self._taken)
