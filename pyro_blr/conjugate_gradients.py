# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Conjugate gradients on tensors, for a matrix that is known by its products alone."""

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
    """

    value: tuple[Tensor, ...]
    is_solved: bool
    iterations: int
    negative: tuple[Tensor, ...] | None = None


def solve(
    times: Callable[[Vector], Vector], target: Vector, *, most: int, relative: float, least: float
) -> Solution:
    """``H x = target`` as far as the curvature along the directions is positive.

    Where H is singular and the target is in its image, x is the solution of least norm.

    :param times: H times a vector.
    :param most: the most iterations.
    :param relative: the residual's size, as a share of the target's, at which to stop.
    :param least: the least curvature ``d'Hd / d'd`` that counts as positive.
    """
    solution = [torch.zeros_like(t) for t in target]
    residual = [t.detach().clone() for t in target]
    direction = [r.clone() for r in residual]
    size = first = host.number(dot(residual, residual))
    for iteration in range(most):
        if not size > relative**2 * first:
            return Solution(tuple(solution), True, iteration)
        product = times(direction)
        curved = host.number(dot(direction, product))
        if not curved > least * host.number(dot(direction, direction)):
            return Solution(tuple(solution), False, iteration, tuple(direction))
        rate = size / curved
        solution = [x + rate * d for x, d in zip(solution, direction, strict=True)]
        residual = [r - rate * p for r, p in zip(residual, product, strict=True)]
        new = host.number(dot(residual, residual))
        direction = [r + new / size * d for r, d in zip(residual, direction, strict=True)]
        size = new
    return Solution(tuple(solution), not size > relative**2 * first, most)


def dot(left: Vector, right: Vector) -> Tensor:
    """The inner product, in float64; parts on the CPU may stand beside parts on one device."""
    first, *rest = ((a * b).sum().double() for a, b in zip(left, right, strict=True))
    return sum(rest, start=first)
