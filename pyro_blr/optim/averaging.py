# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Several ranks' draws made one step: their gradients, weights and sums over draws are averaged."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError, StepOrderError
from .draws import Draws
from .noise import Noise
from .ranks import Copies


def average(
    ranks: Copies, draws: Draws, noise: Noise, parameters: Sequence[Any], summed: set[Tensor],
    scale: float, is_finite: bool,
) -> bool:  # fmt: skip
    """Put the means over ranks into the draws and the gradients, if these are finite on all ranks.

    With the same numbers on all ranks, all take the same step.

    :param parameters: all of the optimiser, in order.
    :param summed: those of which something was summed over draws.
    :param scale: multiplies this rank's own.
    :param is_finite: whether this rank's are.
    :return: whether they are finite.
    :raises CheckpointError: if the ranks are not at the same step of the same run.
    :raises StepOrderError: if no rank has a weight.
    """
    low = noise.seed % 2**32
    own = [low, noise.steps, draws.weight, draws.data, is_finite]
    flags = [p.grad is not None for p in parameters]
    rows = ranks.gathered([float(v) for v in [*own, *flags]], "a step of an optimiser")
    if any(row[:2] != rows[0][:2] for row in rows):
        said = ", ".join(f"rank {r}: {int(row[1])}" for r, row in enumerate(rows))
        raise CheckpointError(
            f"the ranks are not at the same step of one run (steps of {said}). Mend: "
            "load_state_dict of the same state, or of none, on every rank."
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
    has_gradient = [any(column) for column in zip(*(row[5:] for row in rows), strict=True)]
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
