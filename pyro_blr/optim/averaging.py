# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Several ranks' draws made one step: their gradients, weights and sums over draws are averaged."""

from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, ProcessError, StepOrderError
from .draws import Draws, State
from .noise import Noise, hashed
from .options import CHECKS
from .ranks import Copies


def average(
    ranks: Copies, draws: Draws, noise: Noise, groups: Sequence[State], summed: set[Tensor],
    scale: float, is_finite: bool,
) -> bool:  # fmt: skip
    """Put the means over ranks into the draws and the gradients, if these are finite on all ranks.

    With the same numbers on all ranks, all take the same step.

    :param groups: of parameters, in order.
    :param summed: those of which something was summed over draws.
    :param scale: multiplies this rank's own.
    :param is_finite: whether this rank's are.
    :return: whether they are finite.
    :raises CheckpointError: if the ranks are not at the same step of the same run.
    :raises ProcessError: if they would take different steps.
    :raises StepOrderError: if no rank has a weight.
    """
    low, kind = noise.seed % 2**32, hashed(repr([_kind(g) for g in groups]), 6)
    own = [low, noise.steps, draws.weight, draws.data, is_finite, kind]
    parameters = [p for g in groups for p in g["params"]]
    flags = [p.grad is not None for p in parameters]
    rows = ranks.gathered([float(v) for v in [*own, *flags]], "a step of an optimiser")
    if any(row[:2] != rows[0][:2] for row in rows):
        said = ", ".join(f"rank {r}: {int(row[1])}" for r, row in enumerate(rows))
        raise CheckpointError(
            f"the ranks are not at the same step of one run (steps of {said}). Mend: "
            "load_state_dict of the same state, or of none, on every rank."
        )
    if any(row[5] != kind for row in rows):
        own_options = [(g["lr"], g["ess"]) for g in groups]
        raise ProcessError(
            "the ranks have different options of their groups, or freeze different parameters: "
            f"lr and ess are {own_options} on rank {ranks.rank}. Their weights would drift apart. "
            "Mend: the same options on each: as ess the data of all ranks, and a schedule by the "
            "loss, ReduceLROnPlateau, that sees one which all ranks have."
        )
    if not all(row[4] for row in rows):
        return False
    draws.weight = sum(row[2] for row in rows) / ranks.size
    draws.data = sum(row[3] for row in rows) / ranks.size
    if not draws.weight > 0:
        raise StepOrderError(
            "the weights of the draws of all ranks are 0. Mend: sampled_params(weight=len(x)) with "
            'reduction="sum" needs at least one datum on some rank.'
        )
    has_gradient = [any(column) for column in zip(*(row[6:] for row in rows), strict=True)]
    used = [p for p, has in zip(parameters, has_gradient, strict=True) if has]
    if not used:
        raise StepOrderError(
            "step without a gradient: no parameter of any rank has one. Mend: call "
            "loss.backward() within sampled_params, and zero_grad before it."
        )
    for parameter in used:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    draws.gradients = dict(zip(used, ranks.averaged([p.grad for p in used], scale), strict=True))
    ranks.averaged([draws.product(p) for p in used if p in summed], scale)
    return True


def _kind(group: State) -> Any:
    """What ranks have to have in common to take the same step of a group."""
    options = [(name, _written(group[name])) for name in CHECKS if name in group]
    return options, [p.requires_grad for p in group["params"]]


def _written(value: Any) -> Any:
    """An option that is written alike wherever it is equal: of 1 and 1.0, of a list and a tuple."""
    if isinstance(value, tuple | list):
        return [_written(each) for each in value]
    return float(value) + 0.0 if isinstance(value, Real | Tensor) else value  # -0.0 becomes 0.0
