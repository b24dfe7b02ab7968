# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Momentum in natural coordinates: a step goes on in the direction of the last one."""

from collections.abc import Mapping

from ..families import Natural
from .cone import MAX_HALVINGS, Safety, inside
from .objective import Block, Objective
from .sweep import ROUNDING


def extrapolate(
    objective: Objective,
    current: Mapping[Block, Natural],
    proposed: dict[Block, Natural],
    previous: Mapping[Block, Natural],
    gamma: float,
    safety: Safety,
    never_falls: bool,
) -> dict[Block, Natural]:
    """``natural_{t+1} + gamma (natural_t - natural_{t-1})``, inside the cone.

    The fixed points are those of the plain step. An extrapolation that leaves the cone is halved
    until it does not, and left out where it would let the ELBO fall; both are counted.

    :param current: ``natural_t``, where the step began.
    :param proposed: ``natural_{t+1}`` of the plain step.
    :param previous: ``natural_{t-1}``, for the blocks that are to be extrapolated.
    :param never_falls: whether the ELBO is deterministic and must not fall.
    """
    moved = dict(proposed)
    for block, old in previous.items():
        direction = tuple(n - o for n, o in zip(current[block], old, strict=True))
        moved[block] = _inside_cone(block, proposed[block], direction, gamma, safety)
    if not never_falls:
        return moved
    before, after = objective.value(current), objective.value(moved)
    if after.elbo >= before.elbo - ROUNDING * max(before.magnitude, after.magnitude):
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
