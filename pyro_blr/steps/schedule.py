# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Step sizes for messages that carry noise."""

from collections.abc import Callable

from .. import errors

StepSize = str | float | Callable[[int], float]

#: Steps at a constant size before it decreases; the exponent is inside (1/2, 1], where
#: Robbins-Monro steps converge, and near 1/2, where the average of the iterates is efficient.
CONSTANT_STEPS, CONSTANT_SIZE, EXPONENT = 20, 0.3, 0.7


def decreasing(step: int) -> float:
    """Constant, then ``CONSTANT_SIZE * (step / CONSTANT_STEPS) ** -EXPONENT``."""
    if step < CONSTANT_STEPS:
        return CONSTANT_SIZE
    decrease: float = ((step + 1) / CONSTANT_STEPS) ** -EXPONENT
    return CONSTANT_SIZE * decrease


def check_step_size(step_size: object) -> None:
    """Accept ``"auto"``, a number in (0, 1] or a function of the step.

    :raises ArgumentError: for anything else.
    """
    if callable(step_size) or step_size == "auto":
        return
    if (
        isinstance(step_size, bool)
        or not isinstance(step_size, int | float)
        or not 0 < step_size <= 1
    ):
        raise errors.ArgumentError(
            f'step_size must be "auto", a number in (0, 1] or a function of the step, not '
            f"{step_size!r}. Mend: leave it out; no learning rate has to be tuned."
        )


def scheduled(step_size: StepSize, step: int) -> float | None:
    """The size of a step, or None for "auto"."""
    if isinstance(step_size, str):
        return None
    size = step_size(step) if callable(step_size) else step_size
    check_step_size(size)
    return float(size)
