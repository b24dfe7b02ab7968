# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The joint laws of a Gaussian and its precision, as textbooks write them (Bishop 2006, 2.3.6)."""

from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


@dataclass(frozen=True)
class NormalGammaLaw:
    """tau ~ Gamma(shape, rate) and z ~ N(loc, (tau matrix)^-1).

    :param loc: # shape: (*batch, D)
    :param matrix: # shape: (*batch, D, D)
    :param shape: # shape: (*batch,)
    :param rate: # shape: (*batch,) or a number
    """

    loc: Tensor
    matrix: Tensor
    shape: Tensor
    rate: Tensor | float

    def given(self, X: Tensor, y: Tensor) -> "NormalGammaLaw":
        """The posterior after ``y ~ N(X z, 1 / tau)``. # shape: (*batch, N, D), (*batch, N)"""
        matrix = self.matrix + X.mT @ X
        pull = (self.matrix @ self.loc[..., None] + X.mT @ y[..., None])[..., 0]
        loc = torch.linalg.solve(matrix, pull)
        before, after = _square(self.matrix, self.loc), _square(matrix, loc)
        rate = self.rate + (y.square().sum(-1) + before - after) / 2
        return NormalGammaLaw(loc, matrix, self.shape + y.shape[-1] / 2, rate)

    @property
    def precision(self) -> Any:
        """The law of tau."""
        return dist.Gamma(self.shape, torch.as_tensor(self.rate).to(self.shape))

    @property
    def variance(self) -> Any:
        """The law of 1 / tau."""
        return dist.InverseGamma(self.shape, torch.as_tensor(self.rate).to(self.shape))

    def vector(self, part: slice) -> Any:
        """The law of a part of z, a Student t."""
        scale = torch.linalg.inv(self.matrix) * (self.rate / self.shape)[..., None, None]
        scale = (scale + scale.mT) / 2
        factor = torch.linalg.cholesky(scale[..., part, part])
        return dist.MultivariateStudentT(2 * self.shape, self.loc[..., part], factor)

    def element(self, i: int) -> Any:
        """The law of one element of z."""
        vector = self.vector(slice(i, i + 1))
        return dist.StudentT(vector.df, vector.loc[..., 0], vector.scale_tril[..., 0, 0])

    def log_prob(self, z: Tensor, tau: Tensor) -> Tensor:
        """The joint density of z and tau. # shape: (*batch,)"""
        normal = dist.MultivariateNormal(
            self.loc, precision_matrix=tau[..., None, None] * self.matrix
        )
        return normal.log_prob(z) + self.precision.log_prob(tau)


@dataclass(frozen=True)
class NormalWishartLaw:
    """L ~ Wishart(df, inverse^-1) and z ~ N(loc, (kappa L)^-1)."""

    loc: Tensor
    kappa: float
    df: Tensor
    inverse: Tensor

    def given(self, y: Tensor) -> "NormalWishartLaw":
        """The posterior after ``y ~ N(z, L^-1)``. # shape: (N, D)"""
        kappa = self.kappa + len(y)
        loc = (self.kappa * self.loc + y.sum(0)) / kappa
        spread = y - y.mean(0)
        shift = y.mean(0) - self.loc
        inverse = self.inverse + spread.T @ spread
        inverse = inverse + self.kappa * len(y) / kappa * torch.outer(shift, shift)
        return NormalWishartLaw(loc, kappa, self.df + len(y), inverse)

    @property
    def precision(self) -> Any:
        """The law of L."""
        scale = torch.linalg.inv(self.inverse)
        return dist.Wishart(self.df, covariance_matrix=(scale + scale.mT) / 2)

    @property
    def vector(self) -> Any:
        """The law of z, a Student t."""
        freedom = self.df - len(self.loc) + 1
        factor = torch.linalg.cholesky(self.inverse / (self.kappa * freedom))
        return dist.MultivariateStudentT(freedom, self.loc, factor)

    def log_prob(self, z: Tensor, L: Tensor) -> Tensor:
        """The joint density of z and L."""
        normal = dist.MultivariateNormal(self.loc, precision_matrix=self.kappa * L)
        return normal.log_prob(z) + self.precision.log_prob(L)


def _square(matrix: Tensor, vector: Tensor) -> Tensor:
    return (vector * (matrix @ vector[..., None])[..., 0]).sum(-1)
