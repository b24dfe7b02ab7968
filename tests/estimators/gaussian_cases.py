# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Functions of Gaussian variables of every shape, with their expectations by quadrature."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from pyro_blr.estimators import Variable
from tests.oracles import quadrature

MEAN = (0.3, -0.4)
#: Of two independent scalars, and of two coupled ones.
APART = ((0.36, 0.0), (0.0, 0.25))
COUPLED = ((0.36, 0.15), (0.15, 0.25))


def smooth(a: Tensor, b: Tensor) -> Tensor:
    """Neither even nor odd, and no sum of functions of one of them."""
    return torch.sin(a + 0.5) * torch.exp(0.4 * b) - 0.1 * (a * b) ** 2 + torch.tanh(b)


def kinked(a: Tensor, b: Tensor) -> Tensor:
    """Along a draw its second derivatives are 0."""
    return torch.relu(a) - (b + 0.1).abs()


@dataclass(frozen=True)
class Case:
    """Two Gaussian numbers in a variable of some shape.

    :param covariance: of the two.
    :param mean_shape: of the variable's mean, which holds both.
    :param own_covariance: the variable's covariances, from those of the two numbers.
    :param own_derivative: dE[f]/d(own covariances), from that in the covariance of the two.
    """

    covariance: tuple[tuple[float, float], tuple[float, float]]
    mean_shape: tuple[int, ...]
    own_covariance: Callable[[Tensor], Tensor]
    own_derivative: Callable[[Tensor], Tensor]
    scalar: bool = False

    def variable(
        self, noise: Tensor, dtype: torch.dtype = torch.float64, seed: int = 0
    ) -> Variable:
        """The variable at draws of given noise. # shape: (draws, 2)"""
        full = torch.tensor(self.covariance, dtype=torch.float64)
        mean = torch.tensor(MEAN, dtype=torch.float64).reshape(self.mean_shape)
        flat = noise.to(full) @ torch.linalg.cholesky(full).mT
        draws = mean + flat.reshape(-1, *self.mean_shape)
        cov = self.own_covariance(full)
        precision = cov.reciprocal() if self.scalar else torch.linalg.inv(cov)
        return Variable(
            mean.to(dtype).requires_grad_(),
            cov.to(dtype).requires_grad_(),
            precision.to(dtype),
            draws.to(dtype).requires_grad_(),
            self.scalar,
            seed,
        )

    def truth(self, function: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """E[f], its derivative in the mean and that in the covariances."""
        value, slope, curved = _truth(self.covariance, function)
        return value, slope.reshape(self.mean_shape), self.own_derivative(curved)


@cache
def _truth(
    covariance: tuple[tuple[float, float], tuple[float, float]],
    function: Callable[[Tensor, Tensor], Tensor],
) -> tuple[Tensor, Tensor, Tensor]:
    """By quadrature, in the means and the covariance of the two numbers."""
    if function is kinked:  # a sum of functions of one number each, whose kinks are known
        sds = [covariance[i][i] ** 0.5 for i in range(2)]
        zero = torch.zeros((), dtype=torch.float64)
        one = quadrature.expectation(
            lambda a: kinked(torch.as_tensor(a), zero - 0.1).numpy(), MEAN[0], sds[0], kinks=[0.0]
        )
        two = quadrature.expectation(
            lambda b: kinked(zero, torch.as_tensor(b)).numpy(), MEAN[1], sds[1], kinks=[-0.1]
        )
        both = torch.tensor([one, two], dtype=torch.float64).T
        return both[0].sum(), both[1], torch.diag(both[2])

    def g(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return function(torch.as_tensor(a), torch.as_tensor(b)).numpy()

    found = quadrature.joint_expectation(g, MEAN, covariance)
    value = torch.tensor(found.value, dtype=torch.float64)
    return value, torch.as_tensor(found.d_mean), torch.as_tensor(found.d_covariance)


def _diagonal(matrix: Tensor) -> Tensor:
    return matrix.diagonal()


CASES = {
    # Two elements of a plate, that f couples: blocks of their own, so only the diagonal counts.
    "scalars": Case(APART, (2,), _diagonal, _diagonal, scalar=True),
    "vector": Case(COUPLED, (2,), lambda c: c, lambda d: d),
    "batch": Case(
        APART,
        (2, 1),
        lambda c: c.diagonal().reshape(2, 1, 1),
        lambda d: d.diagonal().reshape(2, 1, 1),
    ),
    # One variance for both rows, whose derivative is the sum of theirs.
    "rows": Case(
        ((0.3, 0.0), (0.0, 0.3)),
        (2, 1),
        lambda c: c[:1, :1],
        lambda d: d.diagonal().sum().reshape(1, 1),
    ),
}


def value_of(function: Callable[[Tensor, Tensor], Tensor], variable: Variable) -> Tensor:
    """f at each draw. # shape: (draws,)"""
    flat = variable.draws.reshape(len(variable.draws), 2)
    return function(flat[:, 0], flat[:, 1]).double()
