# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""State space models as one dense Gaussian over all states: exact, and CVI for other emissions.

Costs (T D)^3: an oracle for the routes that cost T.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import expit, gammaln

from tests.oracles.kalman import LOG_2PI, StateSpace

#: E[exp f] needs fewer; E[log(1 + exp f)] has 1e-14 up to a standard deviation of 2.
HERMITE_NODES = 150
MOST_STEPS = 500
#: Of the largest entry, between two steps that count as the same.
STILL = 1e-13


class DensePosterior(NamedTuple):
    """N(mean, cov) of all states, one after another; the evidence, or the ELBO, in nats."""

    log_evidence: float
    mean: np.ndarray  # shape: (T, D)
    cov: np.ndarray  # shape: (T, D, T, D)


def prior(model: StateSpace, T: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of all states. # shapes: (T D,), (T D, T D)"""
    means, columns = [model.initial_mean], [model.initial_cov]
    D = len(model.initial_mean)
    cov = np.zeros((T, D, T, D))
    cov[0, :, 0] = columns[0]
    for t, (A, b, Q) in enumerate(model.transitions(T)):
        means.append(A @ means[-1] + b)
        # Row t + 1 from row t: Cov(z_{t+1}, z_s) = A Cov(z_t, z_s) for s <= t.
        cov[t + 1, :, : t + 1] = np.einsum("ij,jsk->isk", A, cov[t, :, : t + 1])
        cov[: t + 1, :, t + 1] = cov[t + 1, :, : t + 1].transpose(1, 2, 0)
        cov[t + 1, :, t + 1] = A @ cov[t, :, t] @ A.T + Q
    return np.concatenate(means), cov.reshape(T * D, T * D)


def predictors(model: StateSpace, T: int) -> tuple[np.ndarray, np.ndarray]:
    """F and d of the means of all emissions, F z + d. # shapes: (T E, T D), (T E,)"""
    D = len(model.initial_mean)
    rows, offsets = [], []
    for t, (C, d, _) in enumerate(model.emissions(T)):
        row = np.zeros((len(C), T * D))
        row[:, t * D : (t + 1) * D] = C
        rows.append(row)
        offsets.append(d)
    return np.concatenate(rows), np.concatenate(offsets)


def posterior(model: StateSpace, y: np.ndarray) -> DensePosterior:
    """Condition the joint Gaussian on the elements of y that are there (not NaN)."""
    T, E = y.shape
    mean, cov = prior(model, T)
    F, d = predictors(model, T)
    R = np.zeros((T, E, T, E))
    for t, (_, _, noise) in enumerate(model.emissions(T)):
        R[t, :, t] = noise
    there = ~np.isnan(y.ravel())
    F, d, R = F[there], d[there], R.reshape(T * E, T * E)[np.ix_(there, there)]
    error = y.ravel()[there] - d - F @ mean
    spread = F @ cov @ F.T + R
    gain = np.linalg.solve(spread, F @ cov).T
    log_evidence = -(error @ np.linalg.solve(spread, error)) / 2
    log_evidence -= (np.linalg.slogdet(spread)[1] + there.sum() * LOG_2PI) / 2
    return _shaped(float(log_evidence), mean + gain @ error, cov - gain @ F @ cov, T)


class Likelihood(NamedTuple):
    """log p(y | f) and its first two derivatives in f, elementwise."""

    log_prob: Callable[[np.ndarray, np.ndarray], np.ndarray]
    first: Callable[[np.ndarray, np.ndarray], np.ndarray]
    second: Callable[[np.ndarray, np.ndarray], np.ndarray]


#: y ~ Poisson(exp f).
POISSON = Likelihood(
    lambda y, f: y * f - np.exp(f) - gammaln(y + 1),
    lambda y, f: y - np.exp(f),
    lambda y, f: -np.exp(f) + 0 * y,
)
#: y ~ Bernoulli(logits=f).
BERNOULLI = Likelihood(
    lambda y, f: y * f - np.logaddexp(0, f),
    lambda y, f: y - expit(f),
    lambda y, f: -expit(f) * expit(-f) + 0 * y,
)


def cvi(model: StateSpace, y: np.ndarray, likelihood: Likelihood) -> DensePosterior:
    """The Gaussian over all states of the highest ELBO, for emissions f = emission z + offset.

    Each step sets the site of every datum to (E l' - E l'' m, -E l''), and goes half the way where
    the ELBO would fall. The `emission_cov` is not looked at.

    :param y: NaN where missing. # shape: (T, E)
    :raises ArithmeticError: if it does not settle.
    """
    T = len(y)
    mean, cov = prior(model, T)
    F, d = predictors(model, T)
    there = ~np.isnan(y.ravel())
    problem = _Sites(mean, cov, F[there], d[there], y.ravel()[there], likelihood)
    sites, rate = (np.zeros(there.sum()), np.zeros(there.sum())), 1.0
    q = problem.gaussian(sites)
    elbo = problem.elbo(*q)
    for _ in range(MOST_STEPS):
        target = problem.sites(*q)
        proposed = tuple((1 - rate) * s + rate * t for s, t in zip(sites, target, strict=True))
        new = problem.gaussian(proposed)
        reached = problem.elbo(*new)
        if reached < elbo - 1e-12 * abs(elbo):
            rate /= 2
            continue
        moved = max(abs(a - b).max() / abs(a).max() for a, b in zip(new, q, strict=True))
        sites, q, elbo, rate = proposed, new, reached, min(1.0, 2 * rate)
        if moved < STILL:
            return _shaped(elbo, *q, T)
    raise ArithmeticError("the sites did not settle")


class _Sites:
    """A Gaussian prior and sites on linear predictors of it."""

    def __init__(
        self,
        mean: np.ndarray,
        cov: np.ndarray,
        F: np.ndarray,
        d: np.ndarray,
        y: np.ndarray,
        likelihood: Likelihood,
    ) -> None:
        self.mean, self.cov, self.F, self.d, self.y = mean, cov, F, d, y
        self.likelihood = likelihood
        self.nodes, weights = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
        self.weights = weights / weights.sum()
        self.root = np.linalg.cholesky(cov)

    def gaussian(self, sites: tuple[np.ndarray, ...]) -> tuple[np.ndarray, np.ndarray]:
        """Mean and covariance, whitened by the prior so that no inverse of it is needed."""
        first, precision = sites
        G = self.F @ self.root
        inner = np.linalg.inv(np.eye(len(self.mean)) + (G.T * precision) @ G)
        # The site is a function of F z: first has the offset and the prior mean taken out.
        white = inner @ (G.T @ (first - precision * (self.F @ self.mean)))
        cov = self.root @ inner @ self.root.T
        return self.mean + self.root @ white, (cov + cov.T) / 2

    def _at(self, mean: np.ndarray, cov: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        m = self.F @ mean + self.d
        v = np.einsum("ti,ij,tj->t", self.F, cov, self.F)
        return m, v, m + np.sqrt(v) * self.nodes[:, None]

    def sites(self, mean: np.ndarray, cov: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each datum, as a function of F z: the first natural parameter, and the precision."""
        m, _, f = self._at(mean, cov)
        first = self.weights @ self.likelihood.first(self.y, f)
        precision = -(self.weights @ self.likelihood.second(self.y, f))
        return first + precision * (m - self.d), precision

    def elbo(self, mean: np.ndarray, cov: np.ndarray) -> float:
        """sum_t E[log p(y_t | f_t)] - KL(q || prior)."""
        f = self._at(mean, cov)[2]
        likelihood = (self.weights @ self.likelihood.log_prob(self.y, f)).sum()
        inverse = np.linalg.inv(self.root)
        white, spread = inverse @ (mean - self.mean), inverse @ cov @ inverse.T
        kl = (np.trace(spread) + white @ white - len(mean) - np.linalg.slogdet(spread)[1]) / 2
        return float(likelihood - kl)


def _shaped(log_evidence: float, mean: np.ndarray, cov: np.ndarray, T: int) -> DensePosterior:
    D = len(mean) // T
    return DensePosterior(log_evidence, mean.reshape(T, D), cov.reshape(T, D, T, D))
