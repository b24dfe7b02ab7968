# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The geometry of covariances ``W W' + diag(d)``: the Fisher matrix in (W, log d), and its inverse.

For a Gaussian with precision S the Fisher metric is ``dm' S dm + tr(S dSigma S dSigma) / 2``, pulled
back to the family's own coordinates by ``dSigma = dW W' + W dW' + diag(d dlogd)`` (structured natural
gradients, arXiv 2102.07405). With the singular values of ``diag(d)^-1/2 W = U s V'`` every product
costs O(D K^2) and no D x D matrix is formed: in the whitened frame ``X = diag(d)^-1/2 dW V``,
``x = dlogd`` the precision is ``T = I - U diag(a) U'``, ``a = s^2 / (1 + s^2)``, and

    F (X, x) = ( T X diag(a) + R X'R + T diag(x) R,    d/2 o diag(S dSigma S) ),
    R = U diag(s / (1 + s^2)).

F is 0 along the rotations ``dW = W Omega``, Omega antisymmetric, which do not change q.
"""

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from . import host

#: A tangent vector or a covector of (W, log d). # shape: (D, K), (D,)
Pair = tuple[Tensor, Tensor]

#: Conjugate gradients stop at this share of the first residual: the natural gradient has then ten
#: digits, and rounding in F (eps times the squared condition of W) is still below it.
RELATIVE = 1e-10

#: More iterations than this are not taken: every iterate is a direction in which the ELBO rises.
MAX_ITERATIONS = 200

#: A direction whose Fisher length is below this share of the preconditioner's does not move q: the
#: squared lengths of rotations, and of what W and d have in common where K is near D, are rounding.
FLAT = 1e-12

#: A singular value of the whitened W below this share of the largest is none, so that the columns
#: of W are dependent: q does not depend to first order on a column that is 0.
DEPENDENT = 1e-12


class LowRankCovariance:
    """``Sigma = W W' + diag(d)`` at one point; numbers without a graph.

    :param factor: W  # shape: (D, K)
    :param diagonal: d, positive  # shape: (D,)
    """

    def __init__(self, factor: Tensor, diagonal: Tensor) -> None:
        self.factor = factor.detach()
        self.root = diagonal.detach().sqrt().unsqueeze(-1)
        left, singular, right = torch.linalg.svd(self.factor / self.root, full_matrices=False)
        self.left, self.singular, self.frame = left, singular, right.mT
        self.grown = 1 + singular.square()
        self.share = singular.square() / self.grown

    @cached_property
    def _inverse_share(self) -> Tensor:
        """1 / a, and 0 for columns that W has not."""
        exists = self.singular > DEPENDENT * self.singular.amax()
        return torch.where(exists, self.share.reciprocal(), 0.0)

    @cached_property
    def _response(self) -> Tensor:
        """R, the whitened S W. # shape: (D, K)"""
        return self.left * (self.singular / self.grown)

    @cached_property
    def _part(self) -> Tensor:
        """``U diag(a)^1/2``, so that ``T = I - P P'``. # shape: (D, K)"""
        return self.left * self.share.sqrt()

    @cached_property
    def _explained(self) -> Tensor:
        """The diagonal of ``P P'``: 1 less that of T. # shape: (D,)"""
        return self._part.square().sum(-1)

    # The Gaussian itself

    def covariance_times(self, vector: Tensor) -> Tensor:
        """Sigma vector. # shape: (D,)"""
        return self.factor @ (self.factor.mT @ vector) + self.root.squeeze(-1).square() * vector

    def precision_times(self, vector: Tensor) -> Tensor:
        """S vector. # shape: (D,)"""
        return self._whitened_precision_times(vector.unsqueeze(-1) / self.root).div(
            self.root
        ).squeeze(-1)

    def log_determinant_gradient(self) -> Pair:
        """The gradient of ``log det Sigma / 2``: S W, and d/2 o diag(S)."""
        return (self._response @ self.frame.mT) / self.root, 0.5 * (1 - self._explained)

    # The Fisher matrix

    def fisher_times(self, vector: Pair) -> Pair:
        """F vector, as a covector; linear in the vector, and differentiable in it."""
        return self._covector(self._whitened_fisher(self._whitened(vector)))

    def inverse_fisher_times(self, covector: Pair) -> Pair:
        """The tangent vector x without a rotation that solves ``F x = covector``.

        By conjugate gradients, preconditioned by the part of F without the coupling of ``X'`` to X
        and of W to d. Without the second, its eigenvalues are 1 and 2, so few iterations suffice.
        """
        whitened = self.horizontal_covector(self._whitened_covector(covector))
        solved = _conjugate_gradients(self._whitened_fisher, self._precondition, whitened)
        return self._vector(solved)

    def damped_step(self, direction: Pair, rho: float) -> Pair:
        """The x that solves ``(rho F + (1 - rho) C) x = rho F direction``.

        C is the Fisher matrix of z together with the noise that it is made of, ``z = m + W e1 +
        d^1/2 e2``: ``tr(dW' diag(d)^-1 dW) + |dlogd|^2 / 2``. It is never singular.
        """
        if rho == 1.0:
            return direction
        first, second = self._whitened_fisher(self._whitened(direction))

        def times(vector: Pair) -> Pair:
            product = self._whitened_fisher(vector)
            damped = (1 - rho) * vector[0], 0.5 * (1 - rho) * vector[1]
            return _plus(damped, product, rho)

        def precondition(covector: Pair) -> Pair:
            columns, change = covector
            outer = rho * self.share + (1 - rho)
            inner = rho * self.share / self.grown.unsqueeze(-1) + (1 - rho)
            along = self.left.mT @ columns
            grown = (columns - self.left @ along) / outer + self.left @ (along / inner)
            own = 0.5 * (rho * (1 - self._explained).square() + (1 - rho))
            return grown, change / own

        solved = _conjugate_gradients(times, precondition, (rho * first, rho * second))
        return self._vector(solved)

    def horizontal(self, covector: Pair) -> Pair:
        """The part of a covector that is 0 along rotations, which is all of a gradient's."""
        return self._covector(self.horizontal_covector(self._whitened_covector(covector)))

    def horizontal_covector(self, covector: Pair) -> Pair:
        """The same in the whitened frame.

        A vector is horizontal if it is orthogonal to the rotations in the metric ``tr(X'T X a)``;
        this is the transpose of the projection onto these.
        """
        size = self.grown.sqrt()
        inner = size.unsqueeze(-1) * (self.left.mT @ covector[0]) * self._inverse_share.sqrt()
        twist = 0.5 * (inner - inner.mT)
        turned = self.left @ (twist / size.unsqueeze(-1) * self.share.sqrt())
        return covector[0] - turned, covector[1]

    def _whitened_precision_times(self, columns: Tensor) -> Tensor:
        """T columns. # shape: (D, K)"""
        return columns - self.left @ (self.share.unsqueeze(-1) * (self.left.mT @ columns))

    def _whitened_fisher(self, vector: Pair) -> Pair:
        matrix, change = vector
        response, part = self._response, self._part
        moved = self._whitened_precision_times(matrix)
        scaled = change.unsqueeze(-1) * response
        first = moved * self.share + response @ (matrix.mT @ response)
        first = first + self._whitened_precision_times(scaled)
        inner = part.mT @ (change.unsqueeze(-1) * part)
        own = change * (1 - 2 * self._explained) + ((part @ inner) * part).sum(-1)
        return first, (moved * response).sum(-1) + 0.5 * own

    def _precondition(self, covector: Pair) -> Pair:
        columns, change = covector
        square = self.singular.square().unsqueeze(-1)
        grown = columns + self.left @ (square * (self.left.mT @ columns))
        return grown * self._inverse_share, 2 * change / (1 - self._explained).square()

    def relative_change(self, vector: Pair) -> Tensor:
        """A bound on the largest eigenvalue of ``S dSigma``, in absolute value.

        ``T^1/2 (X V s' + ...) T^1/2`` has twice the norm of ``T^1/2 X diag(a)^1/2`` at most, and
        ``T^1/2 diag(x) T^1/2`` that of x, since T is at most 1.
        """
        matrix, change = self._whitened(vector)
        inner = matrix.mT @ self._whitened_precision_times(matrix)
        weight = self.share.sqrt()
        largest = torch.linalg.eigvalsh(weight.unsqueeze(-1) * inner * weight)[..., -1]
        longest = torch.linalg.eigvalsh(inner)[..., -1]
        return torch.maximum(
            2 * largest.clamp_min(0).sqrt() + change.abs().amax(-1), longest.clamp_min(0).sqrt()
        )

    # To the whitened frame and back

    def _whitened(self, vector: Pair) -> Pair:
        return (vector[0] / self.root) @ self.frame, vector[1]

    def _vector(self, whitened: Pair) -> Pair:
        return self.root * (whitened[0] @ self.frame.mT), whitened[1]

    def _whitened_covector(self, covector: Pair) -> Pair:
        return (self.root * covector[0]) @ self.frame, covector[1]

    def _covector(self, whitened: Pair) -> Pair:
        return (whitened[0] @ self.frame.mT) / self.root, whitened[1]


def _conjugate_gradients(
    times: Callable[[Pair], Pair], precondition: Callable[[Pair], Pair], target: Pair
) -> Pair:
    """The solution of ``F x = target`` in the directions that are not flat."""
    solution = tuple(torch.zeros_like(t) for t in target)
    residual = target
    conditioned = precondition(residual)
    direction = conditioned
    first = size = length = host.number(_dot(residual, conditioned))
    for _ in range(MAX_ITERATIONS):
        if not size > RELATIVE**2 * first:  # also where a gradient is 0 or not finite
            break
        product = times(direction)
        curved = host.number(_dot(direction, product))
        if not curved > FLAT * length:
            break
        rate = size / curved
        solution = _plus(solution, direction, rate)
        residual = _plus(residual, product, -rate)
        conditioned = precondition(residual)
        new = host.number(_dot(residual, conditioned))
        direction = _plus(conditioned, direction, new / size)
        # Preconditioned residuals are orthogonal in the preconditioner's metric.
        length, size = new + (new / size) ** 2 * length, new
    return solution  # type: ignore[return-value]


def _dot(left: Pair, right: Pair) -> Tensor:
    return (left[0] * right[0]).sum() + (left[1] * right[1]).sum()


def _plus(left: tuple[Tensor, ...], right: Pair, times: float) -> Pair:
    return left[0] + times * right[0], left[1] + times * right[1]
