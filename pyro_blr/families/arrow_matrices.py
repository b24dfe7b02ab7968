# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Arrow-head matrices: G global rows, and N blocks of L local rows that meet only the global ones.

    S = [[S_gg, S_g1, ..., S_gN], [S_1g, S_11, 0, ...], ..., [S_Ng, 0, ..., S_NN]]

A matrix is given by its parts S_gg, S_gn and S_nn, a vector by x_g and x_n. With the local rows
first its Cholesky factor has no fill-in: S = R R' with

    R = [[F_1, 0, ..., 0], ..., [0, ..., F_N, 0], [W_1', ..., W_N', Q]],
    F_n F_n' = S_nn,   W_n = F_n^-1 S_ng,   Q Q' = S_gg - sum_n W_n' W_n, the Schur complement.

Everything here costs O(N (L^3 + G L^2 + G^2 L) + G^3), and no array is larger than the parts.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_blr.families import matrices

from ..shapes import broadcast_shapes

Parts = tuple[Tensor, Tensor, Tensor]
"""S_gg, S_gn and S_nn.  # shapes: (*batch, G, G), (*batch, N, G, L), (*batch, N, L, L)"""

Vector = tuple[Tensor, Tensor]
"""x_g and x_n.  # shapes: (*batch, G), (*batch, N, L)"""


@dataclass(frozen=True)
class ArrowFactor:
    """The Cholesky factor R of an arrow-head matrix; NaN where there is none.

    :param local: F_n  # shape: (*batch, N, L, L)
    :param cross: W_n  # shape: (*batch, N, L, G)
    :param schur: Q  # shape: (*batch, G, G)
    """

    local: Tensor
    cross: Tensor
    schur: Tensor

    def half_solve(self, vector: Vector) -> Vector:
        """Return R^-1 x."""
        local = matrices.triangular_solve(self.local, vector[1].unsqueeze(-1)).squeeze(-1)
        rest = vector[0] - _gathered(self.cross, local)
        return matrices.triangular_solve(self.schur, rest.unsqueeze(-1)).squeeze(-1), local

    def back_solve(self, vector: Vector) -> Vector:
        """Return R'^-1 x."""
        schur, local = self.schur.mT, self.local.mT
        first = matrices.triangular_solve(schur, vector[0].unsqueeze(-1), upper=True).squeeze(-1)
        rest = (vector[1] - _spread(self.cross, first)).unsqueeze(-1)
        return first, matrices.triangular_solve(local, rest, upper=True).squeeze(-1)

    def solve(self, vector: Vector) -> Vector:
        """Return S^-1 x."""
        return self.back_solve(self.half_solve(vector))

    def whitened(self, vector: Vector) -> Vector:
        """Return R' x, whose square is x' S x."""
        local = matrices.apply(self.local.mT, vector[1]) + _spread(self.cross, vector[0])
        return matrices.apply(self.schur.mT, vector[0]), local

    def log_diagonal(self) -> Tensor:
        """Return half the log-determinant of S.  # shape: (*batch,)"""
        return matrices.log_diagonal(self.schur) + matrices.log_diagonal(self.local).sum(-1)

    def inverse(self) -> Parts:
        """Return the parts of S^-1 where S has its own: C_gg, C_gn and C_nn."""
        first = torch.cholesky_inverse(self.schur)
        slopes = matrices.triangular_solve(self.local.mT, self.cross, upper=True)
        cross = -unflatten(flatten(slopes) @ first, slopes.shape).mT
        half = _half(self.schur, slopes)
        return first, cross, torch.cholesky_inverse(self.local) + half.mT @ half


def factorise(parts: Parts) -> ArrowFactor:
    """Return the Cholesky factor; NaN where a matrix is not positive definite."""
    local = matrices.cholesky(parts[2])
    cross = matrices.triangular_solve(local, parts[1].mT)
    return ArrowFactor(local, cross, matrices.cholesky(parts[0] - gram(cross)))


def positive_definite(parts: Parts) -> Tensor:
    """Tell which matrices are finite and positive definite: every S_nn and the Schur complement.

    :return: a boolean tensor  # shape: (*batch,)
    """
    factor = factorise(parts)
    there = (factor.schur == factor.schur).all(-1).all(-1)
    there = there & (factor.local == factor.local).all(-1).all(-1).all(-1)
    # A factorisation reads one triangle.
    finite = [(part.abs() < math.inf).all(-1).all(-1) for part in parts]
    return there & finite[0] & finite[1].all(-1) & finite[2].all(-1)


def precision_of(covariances: Parts) -> Parts:
    """Return the parts of the arrow-head S whose inverse has the parts C_gg, C_gn and C_nn.

    Given the global rows the local ones have the covariance S_nn^-1 = C_nn - C_ng C_gg^-1 C_gn.
    """
    first = matrices.cholesky(covariances[0])
    half = _half(first, covariances[1].mT)
    given = matrices.cholesky(covariances[2] - half.mT @ half)
    slopes = torch.cholesky_solve(flatten(covariances[1].mT).mT, first).mT
    whitened = matrices.triangular_solve(given, unflatten(-slopes, covariances[1].mT.shape))
    cross = matrices.triangular_solve(given.mT, whitened, upper=True).mT
    return torch.cholesky_inverse(first) + gram(whitened), cross, torch.cholesky_inverse(given)


def apply(parts: Parts, vector: Vector) -> Vector:
    """Return S x."""
    first = matrices.apply(parts[0], vector[0]) + _gathered(parts[1].mT, vector[1])
    return first, matrices.apply(parts[2], vector[1]) + _spread(parts[1].mT, vector[0])


def dense(parts: Parts) -> Tensor:
    """Return S as one matrix, the global rows first.  # shape: (G + N L, G + N L)"""
    (size,), (count, each) = parts[0].shape[-1:], parts[2].shape[-3:-1]
    places = size + torch.arange(count * each, device=parts[0].device).reshape(count, each)
    matrix = parts[0].new_zeros(size + count * each, size + count * each)
    matrix[:size, :size] = parts[0]
    matrix[:size, size:] = flatten(parts[1].mT).mT
    matrix[size:, :size] = flatten(parts[1].mT)
    matrix[places.unsqueeze(-1), places.unsqueeze(-2)] = parts[2]
    return matrix


def gram(rows: Tensor) -> Tensor:
    """Return sum_n A_n' A_n, of A_n  # shape: (*batch, N, L, G)"""
    return paired(rows, rows)


def paired(left: Tensor, right: Tensor) -> Tensor:
    """Return sum_n A_n' B_n.  # shapes: (*batch, N, L, G) each, (*batch, G, G)"""
    total: Tensor = flatten(left).mT @ flatten(right)
    return total


def flatten(rows: Tensor) -> Tensor:
    """Return the blocks below each other: one product with a matrix of all of them, not N.

    :param rows:  # shape: (*batch, N, L, G)
    :return:  # shape: (*batch, N L, G)
    """
    return rows.flatten(-3, -2)


def unflatten(flat: Tensor, shape: torch.Size) -> Tensor:
    """Return blocks of a shape (..., N, L, G) from the rows of all of them below each other."""
    blocks: Tensor = flat.unflatten(-2, shape[-3:-1])
    return blocks


def pack(vector: Vector) -> Tensor:
    """Return (x_g, x_1, ..., x_N) as one vector.  # shape: (*batch, G + N L)"""
    first, local = vector[0], vector[1].flatten(-2)
    batch = broadcast_shapes(first.shape[:-1], local.shape[:-1])
    return torch.cat([first.expand(*batch, -1), local.expand(*batch, -1)], -1)


def unpack(value: Tensor, like: Vector) -> Vector:
    """Return the parts of a packed vector, of the sizes of another one's."""
    (size,), (count, each) = like[0].shape[-1:], like[1].shape[-2:]
    first, local = value.split((size, count * each), -1)
    return first, local.unflatten(-1, (count, each))


def _gathered(rows: Tensor, local: Tensor) -> Tensor:
    """Return sum_n A_n' x_n, of A_n  # shape: (*batch, N, L, G)"""
    total: Tensor = local.flatten(-2).unsqueeze(-2) @ flatten(rows)
    return total.squeeze(-2)


def _spread(rows: Tensor, first: Tensor) -> Tensor:
    """Return A_n x_g, of A_n  # shape: (*batch, N, L, G)"""
    flat = matrices.apply(flatten(rows), first)
    local: Tensor = flat.unflatten(-1, rows.shape[-3:-1])
    return local


def _half(factor: Tensor, rows: Tensor) -> Tensor:
    """Return factor^-1 A_n'.  # shape: (*batch, N, G, L)"""
    solved = matrices.triangular_solve(factor, flatten(rows).mT)
    return unflatten(solved.mT, rows.shape).mT
