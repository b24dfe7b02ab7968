# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The eigenvalues of a Hessian in coordinates in which its rows are of one size.

A design whose columns have scales from 1e-3 to 1e6 has a Hessian of condition 1e18, in which the
small eigenvalues are rounding. Divided by the roots of its diagonal on both sides it has the same
signs of eigenvalues (Sylvester's law of inertia) and a condition that is near the least that a
scaling can give (van der Sluis 1969).
"""

from functools import cached_property

import torch
from torch import Tensor

from ..lifting import host

#: An eigenvalue below so many times eps times the number of elements may be rounding.
ROUNDED = 16.0

#: Passes that balance the rows of a matrix which is not positive definite (Ruiz 2001).
PASSES = 8


class Spectrum:
    """The eigenvalues of a symmetric matrix, scaled on both sides by ``1 / scale``.

    :param matrix: finite, in float64. # shape: (D, D)
    :param eps: the rounding of the numbers that it was computed from.
    """

    def __init__(self, matrix: Tensor, eps: float) -> None:
        self.scale = _balancing(matrix)
        scaled = matrix / self.scale / self.scale.unsqueeze(-1)
        self.values, self.vectors = torch.linalg.eigh(scaled)
        self.limit = ROUNDED * eps * len(matrix)

    @cached_property
    def is_positive(self) -> bool:
        """Whether the matrix is positive definite beyond rounding."""
        return host.truth((self.values > self.limit).all())

    @cached_property
    def negative(self) -> Tensor | None:
        """The direction of the most negative curvature, along which it takes a nat; or None."""
        if host.truth(self.values[0] >= -self.limit):
            return None
        along: Tensor = self.vectors[:, 0] / self.scale * (2 / -self.values[0]).sqrt()
        return along

    def descent(self, gradient: Tensor) -> Tensor:
        """``-|H|^-1 g``: Newton's step, with the sizes of negative eigenvalues in their place.

        Along a direction without curvature it is that of steepest descent.
        """
        size = self.values.abs()
        size = torch.where(size > self.limit, size, torch.ones_like(size))
        along = self.vectors.mT @ (gradient / self.scale)
        step: Tensor = -(self.vectors @ (along / size)) / self.scale
        return step


def _balancing(matrix: Tensor) -> Tensor:
    """The roots of the diagonal where the matrix is positive definite. # shape: (D,)"""
    scale = _roots(matrix.diagonal().abs())
    for _ in range(PASSES):
        scaled = matrix / scale / scale.unsqueeze(-1)
        scale = scale * _roots(scaled.abs().amax(-1))
    return scale


def _roots(sizes: Tensor) -> Tensor:
    return torch.where(sizes > 0, sizes, torch.ones_like(sizes)).sqrt()
