# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Flows of natural gradients: Euler's explicit steps along one of the three fields."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .. import errors
from ..counts import is_count
from .finite_model import FiniteModel
from .point import Point


@dataclass(frozen=True)
class Flow:
    """The path of a flow.

    :param field: along which it went, and in which metric, in words.
    :param theta: the parameters. # shape: (steps + 1, *batch, parameters)
    :param divergence: KL(target, model) of the visible laws, in nats. # shape: (steps + 1, *batch)
    """

    field: str
    theta: Tensor
    divergence: Tensor

    @property
    def end(self) -> Tensor:
        """The last parameter. # shape: (*batch, parameters)"""
        return self.theta[-1]


def flow(
    model: FiniteModel,
    start: Tensor,
    target: Tensor,
    field: str = "evidence",
    step: float = 0.01,
    steps: int = 500,
    singular: str = "refuse",
) -> Flow:
    """Follow a natural gradient by Euler's explicit method.

    :param model: that moves.
    :param start: the first parameter, or many. # shape: (*batch, parameters)
    :param target: a joint law; fields of the visible law take its marginal. # shape: (*sizes)
    :param field: ``"elbo"`` (with that joint target), ``"recognition"`` or ``"evidence"``.
    :param step: the time of one step.
    :param steps: how many to take.
    :param singular: ``"refuse"``, or ``"pinv"`` where a Fisher matrix has no inverse.
    :raises BoundaryError: if a step leaves the model.
    :raises SingularFisherError: if a Fisher matrix has no inverse, and none was chosen.
    """
    is_time = isinstance(step, int | float | np.number) and 0.0 < step < math.inf
    if not (is_time and is_count(steps, 0)):
        raise errors.ArgumentError(
            f"step={step!r} and steps={steps!r} are no time to flow. Mend: a finite step > 0, and "
            "a whole number of steps >= 0."
        )
    theta = model.parameter(start).detach()
    path, divergences, said = [theta], [], ""
    for taken in range(steps + 1):
        here = _at(model, theta, taken)
        gradient = here.gradient(field, target)
        said = f"{gradient.of}, {gradient.metric}"
        divergences.append(_divergence(here, target))
        if taken < steps:
            theta = theta + step * gradient.direction(singular).to(theta.dtype)
            path.append(theta)
    return Flow(said, torch.stack(path), torch.stack(divergences))


def _at(model: FiniteModel, theta: Tensor, taken: int) -> Point:
    try:
        return model.at(theta)
    except (errors.BoundaryError, errors.ProbabilityError, errors.NonFiniteError) as error:
        if not taken:
            raise
        raise errors.BoundaryError(
            f"step {taken} of the flow leaves the model: {error} Here a smaller step= is the mend "
            "as well."
        ) from error


def _divergence(here: Point, target: Tensor) -> Tensor:
    law = here.layout.joint_law(target, "the joint target").sum(-1)
    visible = here.visible.flatten(here.theta.dim() - 1)
    # 0 log 0 is 0.
    ratio = torch.where(law > 0.0, law, 1.0).log() - torch.where(law > 0.0, visible, 1.0).log()
    return (law * ratio).sum(-1)
