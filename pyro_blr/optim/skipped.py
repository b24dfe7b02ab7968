# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Steps that are skipped because a gradient is NaN or infinite: counted, and not endless."""

import math

from ..errors import NonFiniteError, SkippedStepWarning, warn

#: Skipped steps in a row after which training has failed. A GradScaler starts at 2^16 and halves
#: its scale at each overflow, so 16 in a row may be its search.
MOST_IN_A_ROW = 20


class Skipped:
    """Counts of skipped steps.

    :param int total: since the start.
    :param int in_a_row: since the last step that was taken.
    """

    def __init__(self, total: int = 0, in_a_row: int = 0) -> None:
        self.total, self.in_a_row = total, in_a_row

    def taken(self) -> None:
        """Count a step that was taken."""
        self.in_a_row = 0

    def skip(self, is_scaled: bool, least_precision: float) -> None:
        """Count a step that is left out, and warn of it; a GradScaler's own skips go unsaid.

        :param is_scaled: whether a GradScaler found it.
        :param least_precision: the least ``hessian + weight_decay``, named if it is not positive.
        :raises NonFiniteError: after too many in a row.
        """
        self.total += 1
        self.in_a_row += 1
        if self.in_a_row >= MOST_IN_A_ROW:
            raise NonFiniteError(
                f"the gradients of {self.in_a_row} steps in a row were NaN or infinite; none of "
                f"these steps was taken. Mend: {_mend(least_precision)}"
            )
        if not is_scaled:
            warn(
                f"a step was skipped ({self.total} so far, {self.in_a_row} in a row): a gradient "
                "is NaN or infinite. Mend: torch.autograd.set_detect_anomaly(True) names the "
                "operation that made it.",
                SkippedStepWarning,
            )

    def state(self) -> dict[str, int]:
        """The counts, to be saved."""
        return {"total": self.total, "in_a_row": self.in_a_row}


def _mend(least_precision: float) -> str:
    if not least_precision > 0 or least_precision == math.inf:
        return (
            f"hessian + weight_decay is down to {least_precision:g}, so draws have no standard "
            "deviation: retraction=True keeps it positive where estimates may be negative, "
            "weight_decay above 0, which is not lowered while training, where they are 0."
        )
    return (
        "look at the data and the loss of this step, lower lr, raise hessian_init or ess (draws "
        "are then nearer to the mean), or set clip_radius=1e-3."
    )
