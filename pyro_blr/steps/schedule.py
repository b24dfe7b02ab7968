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
    if not callable(step_size) and step_size != "auto" and not is_size(step_size):
        raise errors.ArgumentError(
            f'step_size must be "auto", a number in (0, 1] or a function of the step, not '
            f"{step_size!r}. Mend: leave it out; no learning rate has to be tuned."
        )


def is_size(size: object) -> bool:
    """Whether it is a number in (0, 1]."""
    return isinstance(size, int | float) and not isinstance(size, bool) and 0 < size <= 1


def scheduled(step_size: StepSize, step: int) -> float | None:
    """The size of a step, or None for "auto".

    :raises ArgumentError: if a function of the step returns anything but a number in (0, 1].
    """
    if isinstance(step_size, str):
        return None
    size = step_size(step) if callable(step_size) else step_size
    if not is_size(size):
        raise errors.ArgumentError(
            f"step_size({step}) is {size!r}, and must be a number in (0, 1]. Mend: for instance "
            "lambda step: (step + 2) ** -0.7."
        )
    return float(size)
