# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Linear regression with unknown noise precision: model, data, and the answer by hand."""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)
#: The prior of the noise precision, shape and rate.
SHAPE, RATE = 2.0, 1.0


def model(X: Tensor, y: Tensor) -> None:
    """w ~ N(0, I), tau ~ Gamma(2, 1), y ~ N(X w, 1 / tau)."""
    w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), 1.0).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(y.new_tensor(SHAPE), RATE))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=y)


def data(N: int, D: int, dtype: Any = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Standard normal features and weights, noise of standard deviation 0.5."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(N, D, generator=generator, dtype=torch.float64)
    w = torch.randn(D, generator=generator, dtype=torch.float64)
    y = X @ w + 0.5 * torch.randn(N, generator=generator, dtype=torch.float64)
    return X.to(dtype), y.to(dtype)


@dataclass(frozen=True)
class Posterior:
    """q(w) q(tau) = N(mean, covariance) Gamma(shape, rate)."""

    mean: Tensor
    covariance: Tensor
    shape: float
    rate: float

    @classmethod
    def of_guide(cls, guide: Any) -> "Posterior":
        """A guide's marginals, in float64."""
        w, tau = guide.marginal("w"), guide.marginal("tau")
        return cls(
            w.mean.double(), w.covariance_matrix.double(), float(tau.concentration), float(tau.rate)
        )


class Statistics:
    """X'X, X'y, y'y and N of a data set, in float64: all that the posterior depends on."""

    def __init__(self, X: Tensor, y: Tensor) -> None:
        X, y = X.double(), y.double()
        self.N, self.D = X.shape
        self.XX, self.Xy, self.yy = X.T @ X, X.T @ y, float(y @ y)

    def expected_squares(self, mean: Tensor, covariance: Tensor) -> float:
        """E_q |y - X w|^2."""
        second = covariance + torch.outer(mean, mean)
        return self.yy - 2 * float(mean @ self.Xy) + float((self.XX * second).sum())

    def solve(self, sweeps: int = 100) -> Posterior:
        """Coordinate ascent: the normal equations, then the Gamma update, until nothing moves."""
        shape, rate = SHAPE + self.N / 2, (SHAPE + self.N / 2) * RATE / SHAPE
        for _ in range(sweeps):
            precision = torch.eye(self.D) + shape / rate * self.XX
            mean = torch.linalg.solve(precision, shape / rate * self.Xy)
            covariance = torch.linalg.inv(precision)
            new = RATE + self.expected_squares(mean, covariance) / 2
            if new == rate:
                break
            rate = new
        return Posterior(mean, covariance, shape, rate)

    def elbo(self, q: Posterior) -> float:
        """The ELBO of any q of this form, in nats, from the textbook's expectations."""
        tau = q.shape / q.rate
        digamma = float(torch.digamma(torch.tensor(q.shape, dtype=torch.float64)))
        log_tau = digamma - math.log(q.rate)
        squares = self.expected_squares(q.mean, q.covariance)
        likelihood = (self.N * (log_tau - LOG_2PI) - tau * squares) / 2
        second = float(q.mean @ q.mean + q.covariance.trace())
        weights = (-second + self.D + float(torch.logdet(q.covariance))) / 2
        prior = SHAPE * math.log(RATE) - math.lgamma(SHAPE) + (SHAPE - 1) * log_tau - RATE * tau
        entropy = q.shape - math.log(q.rate) + math.lgamma(q.shape) + (1 - q.shape) * digamma
        return likelihood + weights + prior + entropy
