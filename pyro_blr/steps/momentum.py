# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Momentum in natural coordinates: a step goes on in the direction of the last one."""

from collections.abc import Container, Mapping, Sequence

from torch import Tensor

from ..families import Natural
from .cone import MAX_HALVINGS, Safety, inside
from .objective import Block, Naturals, Objective
from .sweep import has_not_fallen


class Momentum:
    """Goes on by gamma times the last step, ``natural_{t+1} + gamma (natural_t - natural_{t-1})``.

    The fixed points are those of the plain step. An extrapolation that leaves the cone is halved
    until it does not, and left out where it would let the ELBO fall; both are counted.

    :param float gamma: in [0, 1).
    """

    def __init__(self, gamma: float) -> None:
        self.gamma = gamma
        self._previous: dict[str, Natural] = {}

    def state(self) -> dict[str, list[Tensor]]:
        """Where the last step began, by block name, to be saved."""
        return {name: list(natural) for name, natural in self._previous.items()}

    def load_state(self, state: Mapping[str, Sequence[Tensor]]) -> None:
        """Take up where the last step of a saved run began."""
        self._previous = {name: tuple(natural) for name, natural in state.items()}

    def extrapolate(
        self,
        objective: Objective,
        current: Naturals,
        proposed: dict[Block, Natural],
        held: Container[Block],
        safety: Safety,
        never_falls: bool,
    ) -> dict[Block, Natural]:
        """The step with its extrapolation.

        :param current: ``natural_t``, where the step began; it is kept for the next one.
        :param proposed: ``natural_{t+1}`` of the plain step.
        :param held: blocks that are not extrapolated: those of which the step saw only some rows.
        :param never_falls: whether the ELBO is deterministic and must not fall.
        """
        previous = self._previous
        self._previous = {block.name: current[block] for block in proposed}
        if not self.gamma:
            return proposed
        moved = dict(proposed)
        for block, natural in proposed.items():
            last = previous.get(block.name, ())
            is_same = [o.shape for o in last] == [n.shape for n in natural]
            if is_same and block not in held:
                pairs = zip(current[block], last, strict=True)
                direction = tuple(n - o.to(n) for n, o in pairs)
                moved[block] = _inside_cone(block, natural, direction, self.gamma, safety)
        if not never_falls:
            return moved
        before, after = objective.value(current), objective.value(moved)
        if has_not_fallen(before, after):
            return moved
        safety.refused += 1
        return proposed


def _inside_cone(
    block: Block, natural: Natural, direction: Natural, gamma: float, safety: Safety
) -> Natural:
    """The longest halved extrapolation that is inside the domain; the natural itself at last."""
    for _ in range(MAX_HALVINGS):
        moved = tuple(n + gamma * d for n, d in zip(natural, direction, strict=True))
        if inside(block.family, moved):
            return moved
        gamma *= 0.5
        safety.halvings += 1
    safety.refused += 1
    return natural
