# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Variational posteriors of what K classes emit: expected log densities and conjugate updates.

Each is one q over the parameters of all classes, with its prior. `log_likelihood(y)` is
E_q[log p(y_n | class k)], `updated(weights, y)` the q that is best given the weights of the
classes, `minus_kl` E_q[log prior - log q]. A row of y that is missing (NaN, or a negative word)
has the log likelihood 0.
"""

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from scipy.special import gammaln

from tests.oracles.laws import (
    LOG_2PI,
    Dirichlet,
    Gamma,
    MultivariateNormal,
    Normal,
    NormalWishart,
    Wishart,
    quadratic,
    trace,
)


class Emission(Protocol):
    """What the latent variable models need of it."""

    def log_likelihood(self, y: np.ndarray) -> np.ndarray:  # shape: (N, K)
        ...

    def updated(self, weights: np.ndarray, y: np.ndarray) -> "Emission": ...

    @property
    def minus_kl(self) -> float: ...


@dataclass(frozen=True)
class DiagonalNormals:
    """y_nd ~ N(mu_kd, 1 / tau_kd), every mu and every tau apart. # shapes: (K, D)"""

    mu: Normal
    tau: Gamma
    prior_mu: Normal
    prior_tau: Gamma

    def log_likelihood(self, y: np.ndarray) -> np.ndarray:
        squares = (y[:, None] - self.mu.mean) ** 2 + self.mu.variance
        terms = self.tau.mean_log - LOG_2PI - self.tau.mean * squares
        return np.where(np.isnan(y).any(-1)[:, None], 0.0, terms.sum(-1) / 2)

    def updated(self, weights: np.ndarray, y: np.ndarray) -> "DiagonalNormals":
        """mu first, then tau at the new mu."""
        weights, y = _there(weights, y)
        count, total = weights.sum(0)[:, None], weights.T @ y
        precision = 1 / self.prior_mu.variance + self.tau.mean * count
        first = self.prior_mu.mean / self.prior_mu.variance + self.tau.mean * total
        mu = Normal(first / precision, 1 / precision)
        squares = np.einsum("nk,nkd->kd", weights, (y[:, None] - mu.mean) ** 2 + mu.variance)
        tau = Gamma(self.prior_tau.shape + count / 2, self.prior_tau.rate + squares / 2)
        return replace(self, mu=mu, tau=tau)

    @property
    def minus_kl(self) -> float:
        return self.mu.minus_kl(self.prior_mu) + self.tau.minus_kl(self.prior_tau)


@dataclass(frozen=True)
class FullNormals:
    """y_n ~ N(mu_k, L_k^-1), mu and L apart."""

    mu: MultivariateNormal
    L: Wishart
    prior_mu: MultivariateNormal
    prior_L: Wishart

    def log_likelihood(self, y: np.ndarray) -> np.ndarray:
        L = self.L.mean
        squares = quadratic(y[:, None] - self.mu.mean, L) + trace(L, self.mu.cov)
        terms = (self.L.mean_log_det - y.shape[1] * LOG_2PI - squares) / 2
        return np.where(np.isnan(y).any(-1)[:, None], 0.0, terms)

    def updated(self, weights: np.ndarray, y: np.ndarray) -> "FullNormals":
        """mu first, then L at the new mu."""
        weights, y = _there(weights, y)
        count, total, L = weights.sum(0), weights.T @ y, self.L.mean
        prior = np.linalg.inv(self.prior_mu.cov)
        cov = np.linalg.inv(prior + count[:, None, None] * L)
        first = np.einsum("...ij,...j->...i", prior, self.prior_mu.mean)
        first = first + np.einsum("kij,kj->ki", L, total)
        mu = MultivariateNormal(np.einsum("kij,kj->ki", cov, first), cov)
        error = y[:, None] - mu.mean
        scatter = np.einsum("nk,nki,nkj->kij", weights, error, error)
        scatter += count[:, None, None] * cov
        scale = np.linalg.inv(np.linalg.inv(self.prior_L.scale) + scatter)
        return replace(self, mu=mu, L=Wishart(self.prior_L.df + count, scale))

    @property
    def minus_kl(self) -> float:
        return self.mu.minus_kl(self.prior_mu) + self.L.minus_kl(self.prior_L)


@dataclass(frozen=True)
class JointNormals:
    """y_n ~ N(mu_k, L_k^-1), mu and L of a class jointly Normal-Wishart."""

    law: NormalWishart
    prior: NormalWishart

    def log_likelihood(self, y: np.ndarray) -> np.ndarray:
        D, L = y.shape[1], self.law.precision
        squares = quadratic(y[:, None] - self.law.mean, L.mean) + D / self.law.kappa
        terms = (L.mean_log_det - D * LOG_2PI - squares) / 2
        return np.where(np.isnan(y).any(-1)[:, None], 0.0, terms)

    def updated(self, weights: np.ndarray, y: np.ndarray) -> "JointNormals":
        weights, y = _there(weights, y)
        p, count = self.prior, weights.sum(0)
        kappa = p.kappa + count
        mean = (p.kappa * np.asarray(p.mean).T + (weights.T @ y).T).T / kappa[:, None]
        error, off = y[:, None] - mean, mean - p.mean
        scatter = np.einsum("nk,nki,nkj->kij", weights, error, error)
        scatter += np.einsum("k,ki,kj->kij", p.kappa, off, off)
        scale = np.linalg.inv(np.linalg.inv(p.scale) + scatter)
        return replace(self, law=NormalWishart(mean, kappa, p.df + count, scale))

    @property
    def minus_kl(self) -> float:
        return self.law.minus_kl(self.prior)


@dataclass(frozen=True)
class Words:
    """y_n in 0 ... V - 1 with the probabilities of row k. # shape: (K, V)"""

    phi: Dirichlet
    prior: Dirichlet

    def log_likelihood(self, y: np.ndarray) -> np.ndarray:
        return np.where((y < 0)[:, None], 0.0, self.phi.mean_log.T[y])

    def updated(self, weights: np.ndarray, y: np.ndarray) -> "Words":
        counts = np.zeros(self.phi.concentration.shape[::-1])
        np.add.at(counts, y[y >= 0], weights[y >= 0])
        return replace(self, phi=Dirichlet(self.prior.concentration + counts.T))

    @property
    def minus_kl(self) -> float:
        return self.phi.minus_kl(self.prior)


@dataclass(frozen=True)
class Counts:
    """y_nd ~ Poisson(rate_kd), rates apart. # shape: (K, D)"""

    rate: Gamma
    prior: Gamma

    def log_likelihood(self, y: np.ndarray) -> np.ndarray:
        terms = y[:, None] * self.rate.mean_log - self.rate.mean - gammaln(y + 1)[:, None]
        return np.where(np.isnan(y).any(-1)[:, None], 0.0, terms.sum(-1))

    def updated(self, weights: np.ndarray, y: np.ndarray) -> "Counts":
        weights, y = _there(weights, y)
        shape = self.prior.shape + weights.T @ y
        rate = self.prior.rate + weights.sum(0)[:, None]
        return replace(self, rate=Gamma(shape, rate + 0 * shape))

    @property
    def minus_kl(self) -> float:
        return self.rate.minus_kl(self.prior)


def _there(weights: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rows that are not missing."""
    there = ~np.isnan(y).any(-1)
    return weights[there], y[there]
