# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Steps that are not taken: a random model whose ELBO is NaN now and then goes on without them."""

from collections.abc import Callable

from . import errors

#: The same call is evaluated so many times more. One finite value shows that chance made the other
#: NaN; NaN data never give one. What is NaN half of the time is taken for data once in 2^5 times.
EVALUATIONS = 4

#: Skipped steps in a row after which it is no longer "now and then".
MOST_IN_A_ROW = 10


class Skips:
    """Counts the steps that were skipped, and decides which errors are a reason to skip."""

    def __init__(self) -> None:
        self.total = 0
        self.in_a_row = 0

    def skip(self, error: errors.NonFiniteError, is_finite: Callable[[], bool]) -> None:
        """Count and warn of a step that is left out, or raise.

        :param error: why the step could not be taken.
        :param is_finite: evaluates the same call anew and says whether the ELBO is finite.
        :raises NonFiniteError: if the same call is never finite, or after too many in a row.
        """
        if not any(is_finite() for _ in range(EVALUATIONS)):
            raise error
        self.total += 1
        self.in_a_row += 1
        if self.in_a_row >= MOST_IN_A_ROW:
            raise errors.NonFiniteError(
                f"{self.in_a_row} steps in a row were skipped, each finite when the call was "
                f"repeated: a function in the model returns NaN too often. The last one: {error}"
            ) from error
        errors.warn(
            f"a step was skipped ({self.total} so far, {self.in_a_row} in a row): {error}",
            errors.SkippedStepWarning,
        )

    def state(self) -> dict[str, int]:
        """The counts, to be saved."""
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state(self, state: dict[str, int]) -> None:
        """Take up saved counts."""
        self.total, self.in_a_row = state["total"], state["in_a_row"]
