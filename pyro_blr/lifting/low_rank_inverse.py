# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Solving with the Fisher matrix of ``W W' + diag(d)``: W is eliminated in closed form.

In the whitened frame of :mod:`.low_rank`, with ``g = (1 - a)^1/2`` and ``r = (a (1 - a))^1/2``, a
solution (X, x) of ``(f F + c C) (X, x) = (B, b)`` has three parts. With ``G = U' diag(x) U``:

* ``(I - U U') X``: its columns are apart, ``(f a_j + c) X_j = B_j - f r_j (x o U_j)``;
* ``A = U'X``: (A_ij, A_ji) are apart from the others, and their 2 x 2 matrix is ``c I + f u u'``,
  ``u_ij = g_i a_j^1/2``; rotations are the vectors that are orthogonal to u;
* x, of which is left ``(diag(w) + sum_ij Gamma_ij (U_i o U_j) (U_i o U_j)') x = b'``: for c = 0 and
  f = 1 that is ``T o T / 2``, T there the projection ``I - U U'``.

So only x is solved for by iteration, and each takes two products of D x K and K x K matrices.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from . import host

#: Conjugate gradients stop at this share of the first residual: the natural gradient has then ten
#: digits, and rounding in F (eps times the squared condition of W) is still below it.
RELATIVE = 1e-10

#: More iterations than this are not taken: every iterate is a direction in which the ELBO rises.
MAX_ITERATIONS = 200


class WeightedInverse:
    """The inverse of ``f F + c C`` in the whitened frame.

    :param left: U  # shape: (D, K)
    :param share: a  # shape: (K,)
    :param of_fisher: f
    :param of_complete: c, positive.
    """

    def __init__(self, left: Tensor, share: Tensor, of_fisher: float, of_complete: float) -> None:
        self.left, self.share = left, share
        self.of_fisher, self.of_complete = of_fisher, of_complete
        self.rest = 1 - share
        self.response = (share * self.rest).sqrt()
        self.across = of_fisher * share + of_complete
        self.pair = (self.rest.unsqueeze(-1) * share).sqrt()
        self.turn = self.pair.square() + self.pair.square().mT

    def solve(self, matrix: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
        """(X, x) from (B, b). # shape: (D, K), (D,)"""
        first = self._matrix(matrix)
        right = change - self.of_fisher * self._coupled(first)
        solved = self._change(right)
        coupling = solved.unsqueeze(-1) * (self.left * self.response)
        # As T diag(x) R: the part along U is less by 1 / (1 + s^2).
        coupling = coupling - self.left @ (self.share.unsqueeze(-1) * (self.left.mT @ coupling))
        return first - self.of_fisher * self._matrix(coupling), solved

    def _matrix(self, matrix: Tensor) -> Tensor:
        """X where x is 0."""
        along = self.left.mT @ matrix
        across = (matrix - self.left @ along) / self.across
        paired = self.pair * along
        paired = (paired + paired.mT) / (self.of_complete + self.of_fisher * self.turn)
        solved = (along - self.of_fisher * self.pair * paired) / self.of_complete
        return across + self.left @ solved

    def _coupled(self, matrix: Tensor) -> Tensor:
        """What X adds to the equation of x: the sums of the rows of ``(T X) o R``. # shape: (D,)"""
        moved = matrix - self.left @ (self.share.unsqueeze(-1) * (self.left.mT @ matrix))
        return (moved * (self.left * self.response)).sum(-1)

    def _change(self, target: Tensor) -> Tensor:
        """x, by conjugate gradients on what is left of its equation."""
        f, c, squares = self.of_fisher, self.of_complete, self.left.square()
        own = self.response.square() / self.across
        weight = 0.5 * (f + c) - squares @ (f * self.share + f * f * own)
        both = self.rest.unsqueeze(-1) * self.rest * self.turn / (c + f * self.turn)
        inner = f * self.share.unsqueeze(-1) * self.share - f * f * both
        inner = 0.5 * (inner + f * f * (own.unsqueeze(-1) + own))

        def times(vector: Tensor) -> Tensor:
            moved = self.left.mT @ (vector.unsqueeze(-1) * self.left)
            return weight * vector + ((self.left @ (inner * moved)) * self.left).sum(-1)

        diagonal = weight + ((squares @ inner) * squares).sum(-1)
        return _conjugate_gradients(times, diagonal, target)


def _conjugate_gradients(
    times: Callable[[Tensor], Tensor], diagonal: Tensor, target: Tensor
) -> Tensor:
    """The solution of ``times(x) = target``, preconditioned by the diagonal."""
    solution, residual = torch.zeros_like(target), target
    direction = conditioned = residual / diagonal
    first = size = host.number(residual @ conditioned)
    for _ in range(MAX_ITERATIONS):
        if not size > RELATIVE**2 * first:  # also where a gradient is 0 or not finite
            break
        product = times(direction)
        rate = size / host.number(direction @ product)
        solution = solution + rate * direction
        residual = residual - rate * product
        conditioned = residual / diagonal
        new = host.number(residual @ conditioned)
        direction = conditioned + new / size * direction
        size = new
    return solution
