# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Logistic regression: the model, and its Gaussian bound by hand, in NumPy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

#: Nodes of Gauss-Hermite: log(1 + exp f) under a predictor of variance 1 is exact to 1e-12 with 50.
NODES = 50


def model(X: Tensor, y: Tensor, prior_precision: Tensor) -> None:
    """w ~ N(0, 1 / prior_precision), y ~ Bernoulli(sigmoid(X w))."""
    zero = torch.zeros_like(prior_precision)
    w = pyro.sample("w", dist.Normal(zero, prior_precision.rsqrt()).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y)


@dataclass(frozen=True)
class Bound:
    """The ELBO of q(w) = N(mean, precision^-1) on a data set, and the rule at rho = 1 on it."""

    X: np.ndarray  # shape: (N, D)
    y: np.ndarray  # shape: (N,)
    prior_precision: np.ndarray  # shape: (D,)

    def elbo(self, mean: np.ndarray, precision: np.ndarray) -> float:
        """E_q[log p - log q] in nats."""
        covariance = np.linalg.inv(precision)
        f, weights = predictor(self.X, mean, covariance)
        likelihood = self.y @ (f @ weights) - (np.logaddexp(0, f) @ weights).sum()
        second = self.prior_precision @ (mean**2 + np.diag(covariance))
        determinants = np.log(self.prior_precision).sum() - np.linalg.slogdet(precision)[1]
        return float(likelihood + (determinants - second + len(mean)) / 2)

    def step(self, mean: np.ndarray, precision: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """S <- E[hess l], m <- m - S^-1 E[grad l] (arXiv 2107.04562)."""
        f, weights = predictor(self.X, mean, np.linalg.inv(precision))
        p = 1 / (1 + np.exp(-f))
        gradient = self.X.T @ (p @ weights - self.y) + self.prior_precision * mean
        curvature = (p * (1 - p)) @ weights
        new = np.diag(self.prior_precision) + self.X.T @ (curvature[:, None] * self.X)
        return mean - np.linalg.solve(new, gradient), new

    def maximum(self, steps: int = 100) -> float:
        """The largest ELBO, by steps from N(0, I) until they have long stopped moving."""
        mean, precision = np.zeros(self.X.shape[1]), np.eye(self.X.shape[1])
        for _ in range(steps):
            mean, precision = self.step(mean, precision)
        return self.elbo(mean, precision)


def predictor(
    X: np.ndarray, mean: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values of X w at the nodes, and their weights. # shape: (N, NODES), (NODES,)"""
    nodes, weights = hermegauss(NODES)
    scale = np.sqrt(((X @ covariance) * X).sum(1))
    return (X @ mean)[:, None] + scale[:, None] * nodes, weights / weights.sum()


def log_loss_bits(X: np.ndarray, y: np.ndarray, q: Any) -> tuple[float, float]:
    """The mean of -log2 E_q[p(y)], and the share of y that are given more than one half.

    :param q: the posterior of the weights, as ``guide.marginal`` gives it.
    """
    f, weights = predictor(X, q.mean.numpy(), q.covariance_matrix.numpy())
    p = (1 / (1 + np.exp(-f))) @ weights
    given = np.where(y > 0, p, 1 - p)
    return float(-np.log2(given).mean()), float((given > 0.5).mean())


def mean_and_precision(q: Any) -> tuple[np.ndarray, np.ndarray]:
    """A multivariate Normal as NumPy arrays."""
    return q.mean.numpy(), torch.linalg.inv(q.covariance_matrix).numpy()
