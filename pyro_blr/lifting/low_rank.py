# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The geometry of covariances ``W W' + diag(d)``: the Fisher matrix in (W, log d), and its inverse.

For a Gaussian with precision S the Fisher metric is ``dm' S dm + tr(S dSigma S dSigma) / 2``,
pulled back to the family's own coordinates by ``dSigma = dW W' + W dW' + diag(d dlogd)``
(structured natural gradients, arXiv 2102.07405). With the singular values of ``diag(d)^-1/2 W = U s
V'`` every product costs O(D K^2) and no D x D matrix is formed: in the whitened frame ``X =
diag(d)^-1/2 dW V``, ``x = dlogd`` the precision is ``T = I - U diag(a) U'``, ``a = s^2 / (1 +
s^2)``, and

    F (X, x) = ( T X diag(a) + R X'R + T diag(x) R,    d/2 o diag(S dSigma S) ),
    R = U diag(s / (1 + s^2)).

F is 0 along the rotations ``dW = W Omega``, Omega antisymmetric, which do not change q.
"""

from functools import cached_property

import torch
from torch import Tensor

from .low_rank_inverse import WeightedInverse

#: A tangent vector or a covector of (W, log d). # shape: (D, K), (D,)
Pair = tuple[Tensor, Tensor]

#: The share of C in the metric. F is singular where a column of W or an element of d is 0, and an
#: optimum may lie there (an element without a variance of its own: Heywood 1931): F^-1 of a small
#: gradient would then be the whole step. It bounds such a d from below at about this share of the
#: element's variance, at a cost of as many nats, which is far below a fit's tolerance.
DAMPING = 1e-6

#: A singular value of the whitened W below this share of the largest is none: what is divided by it
#: in the projection would be rounding.
DEPENDENT = 1e-12


class LowRankCovariance:
    """``Sigma = W W' + diag(d)`` at one point; numbers without a graph.

    :param factor: W  # shape: (D, K)
    :param diagonal: d, positive  # shape: (D,)
    """

    def __init__(self, factor: Tensor, diagonal: Tensor) -> None:
        self.factor = factor.detach()
        self.root = diagonal.detach().sqrt().unsqueeze(-1)
        self.left: Tensor
        self.singular: Tensor
        self.left, self.singular, right = torch.linalg.svd(
            self.factor / self.root, full_matrices=False
        )
        self.frame: Tensor = right.mT
        self.grown = 1 + self.singular.square()
        self.share = self.singular.square() / self.grown

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
        whitened = self._whitened_precision_times(vector.unsqueeze(-1) / self.root)
        return (whitened / self.root).squeeze(-1)

    def precision(self) -> Tensor:
        """S as a matrix. # shape: (D, D)"""
        whitened = torch.eye(len(self.root), dtype=self.root.dtype, device=self.root.device)
        whitened = whitened - self._part @ self._part.mT
        return whitened / self.root / self.root.mT

    def log_determinant_gradient(self) -> Pair:
        """The gradient of ``log det Sigma / 2``: S W, and d/2 o diag(S)."""
        return (self._response @ self.frame.mT) / self.root, 0.5 * (1 - self._explained)

    # The Fisher matrix

    def fisher_times(self, vector: Pair) -> Pair:
        """F vector, as a covector; linear in the vector, and differentiable in it."""
        return self._covector(self._whitened_fisher(self._whitened(vector)))

    def metric_times(self, vector: Pair) -> Pair:
        """``(F + DAMPING C) vector``, as a covector.

        C is the Fisher matrix of z together with the noise that it is made of, ``z = m + W e1 +
        d^1/2 e2``: ``tr(dW' diag(d)^-1 dW) + |dlogd|^2 / 2``. It is never singular.
        """
        return self._covector(self._weighted(self._whitened(vector), 1.0, DAMPING))

    def inverse_metric_times(self, covector: Pair) -> Pair:
        """The x that solves ``(F + DAMPING C) x = covector``, for a covector without rotations."""
        whitened = self._horizontal_covector(self._whitened_covector(covector))
        return self._vector(self._solved(whitened, 1.0, DAMPING))

    def horizontal_vector(self, vector: Pair) -> Pair:
        """The part of a tangent vector that is orthogonal to the rotations."""
        return self._vector(self._horizontal_vector(self._whitened(vector)))

    def damped_step(self, direction: Pair, rho: float) -> Pair:
        """The x that solves ``(rho M + (1 - rho) C) x = rho M direction``, M the metric."""
        if rho == 1.0:
            return direction
        target = self._weighted(self._whitened(direction), rho, rho * DAMPING)
        return self._vector(self._solved(target, rho, 1 - rho + rho * DAMPING))

    def horizontal_covector(self, covector: Pair) -> Pair:
        """The part of a covector that is 0 along rotations, which is all of a gradient's."""
        return self._covector(self._horizontal_covector(self._whitened_covector(covector)))

    def _solved(self, covector: Pair, of_fisher: float, of_complete: float) -> Pair:
        """The x of ``(of_fisher F + of_complete C) x = covector``, in the whitened frame."""
        inverse = WeightedInverse(self.left, self.share, of_fisher, of_complete)
        return inverse.solve(*covector)

    def _weighted(self, vector: Pair, of_fisher: float, of_complete: float) -> Pair:
        first, second = self._whitened_fisher(vector)
        complete = of_complete * vector[0], 0.5 * of_complete * vector[1]
        return complete[0] + of_fisher * first, complete[1] + of_fisher * second

    def _horizontal_vector(self, vector: Pair) -> Pair:
        """The part of a vector that is orthogonal to the rotations in the metric ``tr(X'T X a)``.

        With ``c = (1 + s^2)^1/2`` and ``N = c^-1 U'X diag(a)^1/2`` a rotation's N is antisymmetric.
        """
        size, root, inverse = self.grown.sqrt().unsqueeze(-1), self._root, self._inverse_root
        twist = _antisymmetric((self.left.mT @ vector[0]) * root / size) * self._exist
        return vector[0] - self.left @ (size * twist * inverse), vector[1]

    def _horizontal_covector(self, covector: Pair) -> Pair:
        """The transpose of that projection."""
        size, root, inverse = self.grown.sqrt().unsqueeze(-1), self._root, self._inverse_root
        twist = _antisymmetric(size * (self.left.mT @ covector[0]) * inverse) * self._exist
        return covector[0] - self.left @ (twist / size * root), covector[1]

    @cached_property
    def _root(self) -> Tensor:
        """a^1/2. # shape: (K,)"""
        return self.share.sqrt()

    @cached_property
    def _inverse_root(self) -> Tensor:
        """a^-1/2, and 0 for columns that W has not. # shape: (K,)"""
        return torch.where(self._exist.diagonal(), self._root.reciprocal(), 0.0)

    @cached_property
    def _exist(self) -> Tensor:
        """Whether two columns can be rotated: neither is 0. # shape: (K, K)"""
        exists = self.singular > DEPENDENT * self.singular.amax()
        return exists.unsqueeze(-1) & exists

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

    def relative_change(self, vector: Pair) -> Tensor:
        """A bound on how much of itself any variance grows, or W takes away, along a vector.

        That is on the eigenvalues of ``S dSigma``, and on those of ``S dW dW'`` (their root), which
        the linear model leaves out. In the whitened frame the part of W has at most twice the norm
        of ``T^1/2 X diag(a)^1/2``, and since T is at most 1, that of d the norm of x.
        """
        matrix, change = self._whitened(vector)
        inner = matrix.mT @ self._whitened_precision_times(matrix)
        weight = self.share.sqrt()
        linear = torch.linalg.eigvalsh(weight.unsqueeze(-1) * inner * weight)[..., -1]
        square = torch.linalg.eigvalsh(inner)[..., -1]
        linear, square = (t.clamp_min(0).sqrt() for t in (linear, square))
        return torch.maximum(2 * linear + change.clamp_min(0).amax(-1), square)

    # To the whitened frame and back

    def _whitened(self, vector: Pair) -> Pair:
        return (vector[0] / self.root) @ self.frame, vector[1]

    def _vector(self, whitened: Pair) -> Pair:
        return self.root * (whitened[0] @ self.frame.mT), whitened[1]

    def _whitened_covector(self, covector: Pair) -> Pair:
        return (self.root * covector[0]) @ self.frame, covector[1]

    def _covector(self, whitened: Pair) -> Pair:
        return (whitened[0] @ self.frame.mT) / self.root, whitened[1]


def _antisymmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix - matrix.mT)
