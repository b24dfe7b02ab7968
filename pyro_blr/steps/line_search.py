# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How far to go along a direction in which a loss falls."""

from collections.abc import Callable

from .cone import MAX_HALVINGS, Safety

#: A longer step must add this share of what the shorter one gained.
WORTH = 0.01


def descend(
    at: Callable[[float], float], before: float, slack: float, safety: Safety, longer: bool = True
) -> tuple[float, float] | None:
    """The size of a step at which the loss does not rise, and the loss there; None if none is.

    A step that is too long is halved, and on as long as that is lower: along a direction that says
    nothing of its length the first size at which the loss does not rise may be far too long. One
    that is not is doubled while that gains: at an inflection Newton's steps are short, and the loss
    goes on falling.

    :param at: the loss at a size of the step; NaN counts as a rise.
    :param slack: a rise that may be rounding.
    :param longer: whether to double.
    """
    size, value = 1.0, at(1.0)
    halvings = 0
    while not value <= before + slack:
        if halvings == MAX_HALVINGS:
            return None
        halvings += 1
        size, value = 0.5 * size, at(0.5 * size)
    safety.halvings += halvings
    if not halvings and value >= before - slack:  # as far beyond the end as it was before
        other = at(0.5)
        if other < before - slack:
            size, value, halvings = 0.5, other, 1
    factor = 0.5 if halvings else 2.0
    for _ in range(MAX_HALVINGS if halvings or longer else 0):
        other = at(factor * size)
        if not other < value - max(slack, WORTH * (before - value)):
            break
        size, value = factor * size, other
    return size, value
