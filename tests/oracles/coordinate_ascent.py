# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Coordinate ascent by hand, in NumPy, for the two models that BayesPy was recorded on.

Written from the conditional densities, with no shared code: the answers of the package, of
BayesPy and of these few lines must be the same.
"""

from typing import Any, NamedTuple

import numpy as np
from scipy.special import digamma, gammaln

LOG_2PI = np.log(2 * np.pi)
SWEEPS = 200  # the recorded problems settle in less than 30


class Solution(NamedTuple):
    """The lower bound in nats and the mean parameters of each site, by BayesPy's names."""

    lower_bound: float
    posterior: dict[str, dict[str, Any]]


class GammaFactor:
    """q = Gamma(shape, rate) under the prior Gamma(2, 1)."""

    prior_shape, prior_rate = 2.0, 1.0

    def __init__(self) -> None:
        self.update(0, 0.0)

    def update(self, count: int, squares: float) -> None:
        """Condition on `count` Normal deviations with the expected sum of squares."""
        self.shape = self.prior_shape + count / 2
        self.rate = self.prior_rate + squares / 2
        self.mean = self.shape / self.rate
        self.mean_log = digamma(self.shape) - np.log(self.rate)

    def log_prior_minus_log_q(self) -> float:
        """E_q[log prior - log q]."""
        prior = self.prior_shape * np.log(self.prior_rate) - gammaln(self.prior_shape)
        prior += (self.prior_shape - 1) * self.mean_log - self.prior_rate * self.mean
        entropy = self.shape - np.log(self.rate) + gammaln(self.shape)
        return prior + entropy + (1 - self.shape) * digamma(self.shape)

    def log_normal(self, count: int, squares: float) -> float:
        """E_q of the log density of `count` Normals with this precision."""
        return (count * (self.mean_log - LOG_2PI) - self.mean * squares) / 2

    @property
    def moments(self) -> dict[str, float]:
        return {"mean": self.mean, "mean_log": self.mean_log}


def regression(X: np.ndarray, y: np.ndarray) -> Solution:
    """w ~ N(0, I) as one block, tau ~ Gamma(2, 1), y ~ N(X w, 1 / tau)."""
    N, D = X.shape
    tau = GammaFactor()
    for _ in range(SWEEPS):
        covariance = np.linalg.inv(np.eye(D) + tau.mean * X.T @ X)
        m = tau.mean * covariance @ X.T @ y
        squares = ((y - X @ m) ** 2).sum() + np.trace(X.T @ X @ covariance)
        tau.update(N, squares)
    second = covariance + np.outer(m, m)
    bound = tau.log_normal(N, squares) + tau.log_prior_minus_log_q()
    bound += (-D * LOG_2PI - np.trace(second)) / 2
    bound += (D * (1 + LOG_2PI) + np.linalg.slogdet(covariance)[1]) / 2
    w = {"mean": m, "mean_square": second}
    return Solution(float(bound), {"w": w, "tau": tau.moments})


def hierarchical(group: np.ndarray, y: np.ndarray, groups: int) -> Solution:
    """mu ~ N(0, 10^2), theta_g ~ N(mu, 1 / tau_group), y_n ~ N(theta[group_n], 1 / tau_noise),
    both precisions Gamma(2, 1), every site independent of the others."""
    N, counts = len(y), np.bincount(group, minlength=groups)
    sums = np.bincount(group, y, minlength=groups)
    tau_group, tau_noise, mean_mu = GammaFactor(), GammaFactor(), 0.0
    for _ in range(SWEEPS):
        var_theta = 1 / (tau_group.mean + counts * tau_noise.mean)
        mean_theta = var_theta * (tau_group.mean * mean_mu + tau_noise.mean * sums)
        var_mu = 1 / (0.01 + groups * tau_group.mean)
        mean_mu = var_mu * tau_group.mean * mean_theta.sum()
        spread = ((mean_theta - mean_mu) ** 2 + var_theta + var_mu).sum()
        tau_group.update(groups, spread)
        residual = ((y - mean_theta[group]) ** 2 + var_theta[group]).sum()
        tau_noise.update(N, residual)
    bound = tau_noise.log_normal(N, residual) + tau_group.log_normal(groups, spread)
    bound += tau_group.log_prior_minus_log_q() + tau_noise.log_prior_minus_log_q()
    bound += (np.log(0.01) - LOG_2PI - 0.01 * (mean_mu**2 + var_mu)) / 2
    bound += (np.log(var_theta) + 1 + LOG_2PI).sum() / 2 + (np.log(var_mu) + 1 + LOG_2PI) / 2
    posterior = {
        "mu": {"mean": mean_mu, "mean_square": mean_mu**2 + var_mu},
        "tau_group": tau_group.moments,
        "tau_noise": tau_noise.moments,
        "theta": {"mean": mean_theta, "mean_square": mean_theta**2 + var_theta},
    }
    return Solution(float(bound), posterior)


def normal_gamma(y: np.ndarray, centre: float, ratio: float) -> Solution:
    """tau ~ Gamma(2, 1), mu ~ N(centre, 1 / (ratio tau)), y ~ N(mu, 1 / tau), mu and tau apart."""
    N, tau = len(y), GammaFactor()
    mean = (ratio * centre + y.sum()) / (ratio + N)  # whatever tau is
    for _ in range(SWEEPS):
        variance = 1 / ((ratio + N) * tau.mean)
        squares = ((y - mean) ** 2).sum() + N * variance
        prior = ratio * ((mean - centre) ** 2 + variance)
        tau.update(N + 1, squares + prior)
    bound = tau.log_normal(N + 1, squares + prior) + np.log(ratio) / 2
    bound += tau.log_prior_minus_log_q() + (1 + LOG_2PI + np.log(variance)) / 2
    second = mean**2 + variance
    return Solution(float(bound), {"mu": {"mean": mean, "mean_square": second}, "tau": tau.moments})
