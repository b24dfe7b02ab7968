# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Textbook cases whose latent is a rate, a variance or a precision matrix of real data."""

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from tests.oracles.textbook_case import Case, Marginals, Mask, normals, student_log_prob
from tests.oracles.textbook_rates import gamma_log_partition


class GammaRate(Case):
    """The rate of a Gamma with known shapes: rate ~ Gamma(2, 3), y_n ~ Gamma(shape_n, rate)."""

    name = "gamma_rate"

    @staticmethod
    def model(shape: Tensor, y: Tensor, mask: Mask = True) -> None:
        rate = pyro.sample("rate", dist.Gamma(y.new_tensor(2.0), 3.0))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Gamma(shape, rate), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        shape = 0.5 + 2 * torch.rand(12, generator=generator, dtype=torch.float64)
        return shape, -torch.rand(12, generator=generator, dtype=torch.float64).log() / 0.8

    @staticmethod
    def prior(shape: Tensor, y: Tensor) -> Marginals:
        return {"rate": dist.Gamma(y.new_tensor(2.0), 3.0)}

    @staticmethod
    def posterior(shape: Tensor, y: Tensor) -> Marginals:
        return {"rate": dist.Gamma(2.0 + shape.sum(), 3.0 + y.sum())}

    @staticmethod
    def log_evidence(shape: Tensor, y: Tensor) -> Tensor:
        base = ((shape - 1) * y.log() - shape.lgamma()).sum()
        prior, posterior = GammaRate.prior(shape, y)["rate"], GammaRate.posterior(shape, y)["rate"]
        return base + gamma_log_partition(posterior) - gamma_log_partition(prior)


class InverseGammaVariance(Case):
    """The variance of a Normal with known mean: s2 ~ InverseGamma(2.5, 2), y ~ N(0.7, s2)."""

    name = "inverse_gamma_variance"

    @staticmethod
    def model(y: Tensor, mask: Mask = True) -> None:
        s2 = pyro.sample("s2", dist.InverseGamma(y.new_tensor(2.5), y.new_tensor(2.0)))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(0.7, s2.sqrt()), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        return (0.7 + 0.5 * normals(generator, 13),)

    @staticmethod
    def prior(y: Tensor) -> Marginals:
        return {"s2": dist.InverseGamma(y.new_tensor(2.5), y.new_tensor(2.0))}

    @staticmethod
    def posterior(y: Tensor) -> Marginals:
        shape = y.new_tensor(2.5 + len(y) / 2)
        return {"s2": dist.InverseGamma(shape, 2.0 + (y - 0.7).square().sum() / 2)}

    @staticmethod
    def log_evidence(y: Tensor) -> Tensor:
        """The data are jointly Student t with 2 a degrees of freedom and the scale b / a."""
        scale = 2.0 / 2.5 * torch.eye(len(y), dtype=y.dtype)
        return student_log_prob(y, y.new_tensor(5.0), torch.full_like(y, 0.7), scale)


class WishartPrecision(Case):
    """The precision matrix of a Normal with known mean: L ~ Wishart(df, V), y ~ N(m, L^-1)."""

    name = "wishart_precision"

    @staticmethod
    def model(df: Tensor, V: Tensor, m: Tensor, y: Tensor, mask: Mask = True) -> None:
        L = pyro.sample("L", dist.Wishart(df, covariance_matrix=V))
        with pyro.plate("data", len(y)), poutine.mask(mask=mask):
            pyro.sample("y", dist.MultivariateNormal(m, precision_matrix=L), obs=y)

    @staticmethod
    def data(generator: torch.Generator) -> tuple[Tensor, ...]:
        A, m = normals(generator, 3, 5), normals(generator, 3)
        df = torch.tensor(4.5, dtype=torch.float64)
        return df, A @ A.T / 5, m, m + normals(generator, 14, 3) @ normals(generator, 3, 3)

    @staticmethod
    def prior(df: Tensor, V: Tensor, m: Tensor, y: Tensor) -> Marginals:
        return {"L": dist.Wishart(df, covariance_matrix=V)}

    @staticmethod
    def posterior(df: Tensor, V: Tensor, m: Tensor, y: Tensor) -> Marginals:
        inverse = torch.linalg.inv(V) + (y - m).T @ (y - m)
        return {"L": dist.Wishart(df + len(y), covariance_matrix=symmetric_inverse(inverse))}

    @staticmethod
    def log_evidence(df: Tensor, V: Tensor, m: Tensor, y: Tensor) -> Tensor:
        """One datum after the other: each is Student t given those before it."""
        total, inverse = y.new_zeros(()), torch.linalg.inv(V)
        for n, row in enumerate(y):
            freedom = df + n - len(m) + 1
            total = total + student_log_prob(row, freedom, m, inverse / freedom)
            inverse = inverse + torch.outer(row - m, row - m)
        return total


def symmetric_inverse(matrix: Tensor) -> Tensor:
    """The inverse of a symmetric matrix, symmetric to the last bit."""
    inverse = torch.linalg.inv(matrix)
    return (inverse + inverse.mT) / 2
