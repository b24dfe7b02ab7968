# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Conjugate gradients on tensors, for a matrix that is known by its products alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .lifting import host

Vector = Sequence[Tensor]


@dataclass(frozen=True)
class Solution:
    """What was found of ``H x = target``.

    :param is_solved: whether the residual is as small as was asked for.
    :param iterations: how many were taken.
    :param negative: the direction whose curvature was not positive, if one was met.
    :param curvature: of that direction, ``d'Hd / d'Pd``; NaN where H is.
    """

    value: list[Tensor]
    is_solved: bool
    iterations: int
    negative: list[Tensor] | None = None
    curvature: float = math.inf


def solve(
    times: Callable[[list[Tensor]], Vector],
    target: Vector,
    *,
    most: int,
    relative: float,
    precondition: Callable[[list[Tensor]], Vector] | None = None,
) -> Solution:
    """``H x = target`` as far as the curvature along the directions is positive.

    Where H is singular and the target is in its image, x is the solution of least norm.

    :param times: H times a vector.
    :param most: the most iterations.
    :param relative: the residual's size, as a share of the target's, at which to stop.
    :param precondition: P^-1 times a vector, P positive definite: a metric in which H is near I,
        and by which residuals (``r' P^-1 r``) and directions (``d'Pd``) are measured; I if none.
    """
    solution = [torch.zeros_like(t) for t in target]
    residual = [t.detach().clone() for t in target]
    conditioned = precondition(residual) if precondition else residual
    direction = list(conditioned)
    size = length = host.number(dot(residual, conditioned))
    limit = relative**2 * size
    for iteration in range(most):
        if not size > limit:
            return Solution(solution, abs(size) <= limit, iteration)
        product = times(direction)
        curved = host.number(dot(direction, product))
        if not curved > 0:
            return Solution(solution, False, iteration, direction, curved / length)
        rate = size / curved
        solution = _plus(solution, direction, rate)
        residual = _plus(residual, product, -rate)
        conditioned = precondition(residual) if precondition else residual
        new = host.number(dot(residual, conditioned))
        # The residual is orthogonal to the last direction: d'Pd is the sum of two squares.
        share = new / size
        direction, length = _plus(conditioned, direction, share), new + share**2 * length
        size = new
    return Solution(solution, abs(size) <= limit, most)


def _plus(left: Vector, right: Vector, times: float) -> list[Tensor]:
    return [a + times * b for a, b in zip(left, right, strict=True)]


def dot(left: Vector, right: Vector) -> Tensor:
    """The inner product, in float64; parts on the CPU may stand beside parts on one device."""
    first, *rest = ((a * b).sum().double() for a, b in zip(left, right, strict=True))
    return sum(rest, start=first)
