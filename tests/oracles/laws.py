# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Posterior laws in plain NumPy: their expectations, and E_q[log prior - log q], in closed form."""

from typing import NamedTuple

import numpy as np
from scipy.special import digamma, gammaln, multigammaln

LOG_2PI = np.log(2 * np.pi)


class Dirichlet(NamedTuple):
    """Rows of probabilities. # shape: (*batch, K)"""

    concentration: np.ndarray

    @property
    def mean_log(self) -> np.ndarray:
        a = self.concentration
        return digamma(a) - digamma(a.sum(-1, keepdims=True))

    def minus_kl(self, prior: "Dirichlet") -> float:
        a, b = np.broadcast_arrays(self.concentration, prior.concentration)
        terms = ((b - a) * self.mean_log + gammaln(a) - gammaln(b)).sum(-1)
        return float((terms + gammaln(b.sum(-1)) - gammaln(a.sum(-1))).sum())


class Gamma(NamedTuple):
    """Shape and rate, elementwise."""

    shape: np.ndarray
    rate: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        return self.shape / self.rate

    @property
    def mean_log(self) -> np.ndarray:
        return digamma(self.shape) - np.log(self.rate)

    def minus_kl(self, prior: "Gamma") -> float:
        a, b = prior
        terms = a * np.log(b) - gammaln(a) + (a - self.shape) * self.mean_log - b * self.mean
        return float(
            (terms - self.shape * np.log(self.rate) + gammaln(self.shape) + self.shape).sum()
        )


class Normal(NamedTuple):
    """Mean and variance, elementwise."""

    mean: np.ndarray
    variance: np.ndarray

    def minus_kl(self, prior: "Normal") -> float:
        squares = (self.mean - prior.mean) ** 2 + self.variance
        ratio = np.log(self.variance / prior.variance)
        return float((ratio + 1 - squares / prior.variance).sum() / 2)


class MultivariateNormal(NamedTuple):
    """Mean and covariance. # shapes: (*batch, D), (*batch, D, D)"""

    mean: np.ndarray
    cov: np.ndarray

    def minus_kl(self, prior: "MultivariateNormal") -> float:
        precision = np.linalg.inv(prior.cov)
        squares = quadratic(self.mean - prior.mean, precision) + trace(precision, self.cov)
        ratio = log_det(self.cov) - log_det(prior.cov)
        return float((ratio + self.mean.shape[-1] - squares).sum() / 2)


class Wishart(NamedTuple):
    """Degrees of freedom and scale V of a precision matrix: its mean is df V."""

    df: np.ndarray  # shape: (*batch,)
    scale: np.ndarray  # shape: (*batch, D, D)

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.df)[..., None, None] * self.scale

    @property
    def mean_log_det(self) -> np.ndarray:
        D = self.scale.shape[-1]
        halves = (np.asarray(self.df)[..., None] - np.arange(D)) / 2
        return digamma(halves).sum(-1) + D * np.log(2) + log_det(self.scale)

    def log_normaliser(self) -> np.ndarray:
        D = self.scale.shape[-1]
        return self.df * (D * np.log(2) + log_det(self.scale)) / 2 + multigammaln(
            np.asarray(self.df) / 2, D
        )

    def minus_kl(self, prior: "Wishart") -> float:
        D = self.scale.shape[-1]
        traces = trace(np.linalg.inv(prior.scale), self.mean)
        terms = (prior.df - self.df) * self.mean_log_det - traces + self.df * D
        normalisers = self.log_normaliser() - prior.log_normaliser()
        return float((terms / 2 + normalisers).sum())


class NormalWishart(NamedTuple):
    """L ~ Wishart(df, scale) and, given it, mu ~ N(mean, (kappa L)^-1)."""

    mean: np.ndarray  # shape: (*batch, D)
    kappa: np.ndarray  # shape: (*batch,)
    df: np.ndarray  # shape: (*batch,)
    scale: np.ndarray  # shape: (*batch, D, D)

    @property
    def precision(self) -> Wishart:
        return Wishart(self.df, self.scale)

    def minus_kl(self, prior: "NormalWishart") -> float:
        D, ratio = self.mean.shape[-1], prior.kappa / self.kappa
        squares = prior.kappa * quadratic(self.mean - prior.mean, self.precision.mean)
        location = (D * (np.log(ratio) - ratio + 1) - squares).sum() / 2
        return float(location) + self.precision.minus_kl(prior.precision)


def quadratic(vector: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """vector' matrix vector."""
    return np.einsum("...i,...ij,...j->...", vector, matrix, vector)


def trace(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """tr(left right)."""
    return np.einsum("...ij,...ji->...", left, right)


def log_det(matrix: np.ndarray) -> np.ndarray:
    """log |matrix|."""
    return np.linalg.slogdet(matrix)[1]
