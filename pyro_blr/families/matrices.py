# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Positive definite matrices through their Cholesky factors, without a host read."""

import math

import torch
from torch import Tensor

from pyro_blr.families.gamma_functions import bregman_log


def cholesky(matrix: Tensor) -> Tensor:
    """Return the lower Cholesky factor, NaN where there is none.

    :param matrix: of which only the lower triangle is read  # shape: (*batch, D, D)
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    # Where it fails LAPACK leaves a half-finished factor, which would pass for a result.
    return factor.masked_fill((info != 0).unsqueeze(-1).unsqueeze(-1), math.nan)


def positive_definite(matrix: Tensor) -> Tensor:
    """Tell which matrices are finite, positive definite, and have an inverse in floating point.

    :param matrix:  # shape: (*batch, D, D)
    :return: a boolean tensor  # shape: (*batch,)
    """
    factor, info = torch.linalg.cholesky_ex(matrix)
    # Of a subnormal pivot the reciprocal overflows.
    least = torch.finfo(matrix.dtype).tiny ** 0.5
    has_inverse: Tensor = (info == 0) & (factor.diagonal(dim1=-2, dim2=-1) > least).all(-1)
    return has_inverse & (matrix.abs() < math.inf).all(-1).all(-1)


def solve(factor: Tensor, vector: Tensor) -> Tensor:
    """Return (L L')^-1 vector.

    :param factor: L, lower triangular  # shape: (*batch, D, D)
    :param vector:  # shape: (*batch, D)
    """
    return torch.cholesky_solve(vector.unsqueeze(-1), factor).squeeze(-1)


def triangular_solve(factor: Tensor, columns: Tensor, upper: bool = False) -> Tensor:
    """Return factor^-1 columns.

    :param factor: lower (or upper) triangular  # shape: (*batch, D, D)
    :param columns:  # shape: (*batch, D, K)
    """
    solved: Tensor = torch.linalg.solve_triangular(factor, columns, upper=upper)
    return solved


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return matrix vector.

    :param matrix:  # shape: (*batch, K, D)
    :param vector:  # shape: (*batch, D)
    """
    return product(matrix, vector.unsqueeze(-1)).squeeze(-1)


def product(left: Tensor, right: Tensor) -> Tensor:
    """Return left right, as ``@`` does, by one operation where both are one row of matrices.

    There ``@`` takes four more to make batches alike, each with a derivative of its own.

    :param left:  # shape: (*batch, K, D)
    :param right:  # shape: (*batch, D, M)
    """
    are_rows = left.dim() == right.dim() == 3 and left.shape[0] == right.shape[0]
    return torch.bmm(left, right) if are_rows else left @ right


def scaled(number: Tensor, matrix: Tensor) -> Tensor:
    """Return number matrix, one number for each matrix.

    :param number:  # shape: (*batch,)
    :param matrix:  # shape: (*batch, K, D)
    """
    return number.unsqueeze(-1).unsqueeze(-1) * matrix


def outer(left: Tensor, right: Tensor) -> Tensor:
    """Return left right', of two vectors."""
    return left.unsqueeze(-1) * right.unsqueeze(-2)


def symmetric_outer(left: Tensor, right: Tensor) -> Tensor:
    """Return left right' + right left', of two vectors."""
    product = outer(left, right)
    return product + product.mT


def symmetric_part(matrix: Tensor) -> Tensor:
    """Return (M + M')/2, all of M that a pairing with symmetric matrices sees."""
    return 0.5 * (matrix + matrix.mT)


def log_diagonal(factor: Tensor) -> Tensor:
    """Return sum(log L_ii), half the log-determinant of L L'."""
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def relative_divergence(factor_q: Tensor, factor_p: Tensor, scale: Tensor | None = None) -> Tensor:
    """Return tr(R) - D - log|R| for R = scale L_q^-1 (L_p L_p') L_q'^-1, which is never negative.

    With M = L_q^-1 L_p it is scale |M|^2 - sum(1 + log(scale M_ii^2)), whose diagonal part is a
    sum of positive terms, so nothing cancels. Half of it is the divergence of two centred
    Gaussians with precision matrices L_q L_q' and L_p L_p'.

    :param factor_q: Cholesky factor  # shape: (*batch, D, D)
    :param factor_p: Cholesky factor  # shape: (*batch, D, D)
    :param scale: positive numbers; 1 if none  # shape: (*batch,)
    """
    ratio = triangular_solve(factor_q, factor_p)
    squares = ratio.square()
    if scale is not None:
        squares = squares * scale.unsqueeze(-1).unsqueeze(-1)
    diagonal = bregman_log(squares.diagonal(dim1=-2, dim2=-1)).sum(-1)
    return squares.tril(-1).sum((-2, -1)) + diagonal
