# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Weights at a draw and back: what is kept of their means, and the draws since the last step.

A parameter in float32 or float64 holds its mean, and a draw while there is one; its mean is then in
a buffer, from where it is copied back to the last bit. A parameter in a shorter format has its mean
in the state, in float32, and holds it rounded; the buffer has the draw as it was before rounding.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..steps.diagonal import each
from .noise import Noise
from .parts import in_parts
from .sharding import all_local, place_of

State = dict[str, Any]


def state_dtype(parameter: Tensor) -> torch.dtype:
    """The dtype of means, Hessians and momenta: float32 where the parameter's is shorter."""
    return torch.promote_types(parameter.dtype, torch.float32)


def is_rounded(parameter: Tensor) -> bool:
    """Whether a parameter holds its mean rounded to a shorter format."""
    return parameter.dtype != state_dtype(parameter)


@dataclass
class Draws:
    """The draws since the last step.

    :param count: how many have ended.
    :param weight: the sum of their weights, by which their gradients are divided.
    :param data: whose own gradients were taken at them; of several ranks their mean.
    :param reason: why there is none, where that is not plain.
    :param drawn: the parameters that were.
    :param buffers: one for each parameter, kept from step to step: its mean while a draw is active
        (or its draw, see above), the draw minus the mean afterwards (or the factor).
    :param products: what an optimiser sums over draws, parameter by parameter.
    :param gradients: means over several ranks.
    :param factors: what multiplies gradients at the active draw, where that is not the draw minus
        the mean.
    """

    count: int = 0
    weight: float = 0.0
    data: float = 0
    reason: str = ""
    drawn: set[Tensor] = field(default_factory=set)
    buffers: dict[Tensor, Tensor] = field(default_factory=dict)
    products: dict[Tensor, Tensor] = field(default_factory=dict)
    gradients: dict[Tensor, Tensor] = field(default_factory=dict)
    factors: dict[Tensor, Tensor] = field(default_factory=dict)

    def forget(self, reason: str = "") -> None:
        """Drop the draws that have ended."""
        self.count, self.weight, self.data, self.reason = 0, 0.0, 0, reason
        self.products.clear()
        self.gradients.clear()
        self.drawn.clear()

    def product(self, parameter: Tensor) -> Tensor:
        """The sum of a parameter, 0 at first."""
        if parameter not in self.products:
            dtype = state_dtype(parameter)
            self.products[parameter] = torch.zeros_like(parameter, dtype=dtype)
        return self.products[parameter]

    def keep_means(self, parameters: Sequence[Tensor], states: Mapping[Any, State]) -> None:
        """Put a copy of the means into the buffers."""
        for parameter in parameters:
            mean = parameter
            if is_rounded(parameter):
                mean = _adopted(parameter, states[parameter]["mean"])
            buffer = self.buffers.get(parameter)
            if buffer is None or buffer.device != mean.device or buffer.dtype != mean.dtype:
                buffer = torch.empty_like(mean, requires_grad=False)
                self.buffers[parameter] = buffer
            buffer.copy_(mean)

    def draw(
        self, parameters: Sequence[Tensor], hessians: Sequence[Tensor], noise: Noise, group: State
    ) -> None:
        """Add the noise to parameters whose means are kept.

        :param parameters: of one device, dtype and place.
        """
        points = self.points(parameters)
        for point, hessian in in_parts(points, hessians):
            roots = each._foreach_add(hessian, group["weight_decay"])
            each._foreach_mul_(roots, group["ess"])
            each._foreach_sqrt_(roots)
            each._foreach_addcdiv_(point, noise.like(point, place_of(parameters[0])), roots)
        self.show(parameters)

    def points(self, parameters: Sequence[Tensor]) -> Sequence[Tensor]:
        """The tensors that are to hold the draws: the parameters where these are wide enough."""
        return [self.buffers[p] for p in parameters] if is_rounded(parameters[0]) else parameters

    def show(self, parameters: Sequence[Tensor]) -> None:
        """Round the draws into the parameters, where these do not hold them."""
        if is_rounded(parameters[0]):
            buffers = [self.buffers[p] for p in parameters]
            each._foreach_copy_(all_local(parameters), all_local(buffers))

    def restore(
        self, parameters: Sequence[Tensor], states: Mapping[Any, State], is_used: bool
    ) -> None:
        """Put the means back, and the draws minus the means (or the factors) into the buffers.

        :param is_used: whether these are asked for.
        """
        buffers = [self.buffers[p] for p in parameters]
        factors = [self.factors.pop(p) for p in parameters if p in self.factors]
        if factors:
            self.restore(parameters, states, False)
            if is_used:
                each._foreach_copy_(buffers, factors)
            return
        if is_rounded(parameters[0]):
            means = [states[p]["mean"] for p in parameters]
            each._foreach_copy_(all_local(parameters), all_local(means))
            if is_used:
                each._foreach_sub_(all_local(buffers), all_local(means))
            return
        parts, restored = list(in_parts(parameters, buffers)), 0
        try:
            for point, mean in parts:
                away = each._foreach_sub(point, mean) if is_used else None
                each._foreach_copy_(point, mean)
                restored += 1
                if away is not None:
                    each._foreach_copy_(mean, away)
        except BaseException:  # no memory, or an interrupt: these buffers have the means still
            for point, mean in parts[restored:]:
                each._foreach_copy_(point, mean)
            raise

    def displacements(
        self, parameters: Sequence[Tensor], states: Mapping[Any, State]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Each parameter with its active draw minus its mean, or its factor."""
        for parameter in parameters:
            buffer = self.buffers[parameter]
            if parameter in self.factors:
                yield parameter, self.factors[parameter]
            elif is_rounded(parameter):
                yield parameter, buffer - states[parameter]["mean"]
            else:
                yield parameter, parameter - buffer


def _adopted(parameter: Tensor, mean: Tensor) -> Tensor:
    """The mean of a rounded parameter; where that was set from outside, its new value."""
    unchanged = mean.to(parameter.dtype) == parameter
    return mean.copy_(torch.where(unchanged, mean, parameter.to(mean.dtype)))
