# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""From the objective of a call to the surrogate at a state of q."""

from typing import Any

from .. import errors
from ..objective import EnergyObjective
from ..refusals import check_natural
from .surrogate import Surrogate


def surrogate_of(view: Any, objective: EnergyObjective, step_size: float) -> Surrogate:
    """The surrogate of an objective at the state of a guide.

    :param view: the guide, as the engine sees it.
    :raises GuideError: for a guide that does not move in natural coordinates.
    :raises SubsampleError: for a minibatch where q has latents of its rows.
    """
    energy = objective.energy
    check_natural(view, energy, "no surrogate is linear in statistics of q and has its next step")
    local = [b.name for b in energy.blocks if energy.rows(b) is not None]
    if local:
        raise errors.SubsampleError(
            f"{local[0]!r} has elements for the rows of a minibatch, whose losses are scaled "
            "otherwise than what all rows share. Mend: give all data to the call."
        )
    given = objective.by_block(view.naturals())
    value = objective.value(given)
    objective.check_finite(value)
    expected = -float(value.expected_log_joint.detach())
    return Surrogate(energy, given, objective.natural_messages(given), expected, step_size)
