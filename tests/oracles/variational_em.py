# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Variational Bayes EM by hand for mixtures, topics and hidden Markov models.

`elbo` is the bound at the q of the parameters, with the q of the discrete latents at its optimum:
log sum_z exp E_q[log p(y, z | parameters)] - KL(q || prior). `sweep` is one pass: the discrete
latents, then every parameter given their weights.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tests.oracles.emissions import Emission, Words
from tests.oracles.forward_backward import Smoothed, forward_backward
from tests.oracles.laws import Dirichlet


@dataclass(frozen=True)
class Mixture:
    """z_n ~ Categorical(theta), y_n ~ the emission of class z_n."""

    theta: Dirichlet  # shape: (K,)
    prior: Dirichlet
    emission: Emission

    def _logs(self, y: np.ndarray) -> np.ndarray:
        return self.theta.mean_log + self.emission.log_likelihood(y)

    def weights(self, y: np.ndarray) -> np.ndarray:
        """q(z). # shape: (N, K)"""
        return _softmax(self._logs(y))

    def elbo(self, y: np.ndarray) -> float:
        total = np.logaddexp.reduce(self._logs(y), axis=-1).sum()
        return float(total) + self.theta.minus_kl(self.prior) + self.emission.minus_kl

    def sweep(self, y: np.ndarray) -> "Mixture":
        weights = self.weights(y)
        theta = Dirichlet(self.prior.concentration + weights.sum(0))
        return replace(self, theta=theta, emission=self.emission.updated(weights, y))


@dataclass(frozen=True)
class Topics:
    """Latent Dirichlet allocation: z_n ~ Categorical(theta[doc_n]), w_n ~ Categorical(phi[z_n])."""

    theta: Dirichlet  # shape: (documents, K)
    prior: Dirichlet
    phi: Words

    def _logs(self, doc: np.ndarray, word: np.ndarray) -> np.ndarray:
        return self.theta.mean_log[doc] + self.phi.log_likelihood(word)

    def weights(self, doc: np.ndarray, word: np.ndarray) -> np.ndarray:
        """q(z). # shape: (tokens, K)"""
        return _softmax(self._logs(doc, word))

    def elbo(self, doc: np.ndarray, word: np.ndarray) -> float:
        total = np.logaddexp.reduce(self._logs(doc, word), axis=-1).sum()
        return float(total) + self.theta.minus_kl(self.prior) + self.phi.minus_kl

    def sweep(self, doc: np.ndarray, word: np.ndarray) -> "Topics":
        weights = self.weights(doc, word)
        counts = np.zeros(self.theta.concentration.shape)
        np.add.at(counts, doc, weights)
        theta = Dirichlet(self.prior.concentration + counts)
        return replace(self, theta=theta, phi=self.phi.updated(weights, word))

    def local_optimum(self, doc: np.ndarray, word: np.ndarray, sweeps: int = 500) -> "Topics":
        """The best theta at this phi, as stochastic variational inference has it."""
        at = self
        for _ in range(sweeps):
            moved = replace(at.sweep(doc, word), phi=self.phi)
            if np.allclose(moved.theta.concentration, at.theta.concentration, rtol=1e-13, atol=0):
                return moved
            at = moved
        raise ArithmeticError("theta did not settle")


@dataclass(frozen=True)
class HiddenMarkov:
    """Rows of the transition matrix and the first state's probabilities unknown.

    :param bool silent: the first state moves once before the first observation, as in
        dist.DiscreteHMM.
    :param prior_initial: with None the first state's probabilities are known: `initial` is then a
        Dirichlet of which only `mean_log` is looked at (see `Known`).
    """

    initial: "Dirichlet | Known"  # shape: (K,)
    rows: Dirichlet  # shape: (K, K)
    prior_initial: Dirichlet | None
    prior_rows: Dirichlet
    emission: Emission
    silent: bool = False

    def smoothed(self, y: np.ndarray) -> Smoothed:
        """The states of one sequence."""
        logs = self.emission.log_likelihood(self._padded(y))
        return forward_backward(self.initial.mean_log, self.rows.mean_log, logs)

    def _padded(self, y: np.ndarray) -> np.ndarray:
        if not self.silent:
            return y
        missing = np.full((1, *y.shape[1:]), -1 if y.dtype.kind == "i" else np.nan)
        return np.concatenate([missing, y])

    def elbo(self, sequences: Sequence[np.ndarray]) -> float:
        total = sum(self.smoothed(y).log_evidence for y in sequences)
        if self.prior_initial is not None:
            total += self.initial.minus_kl(self.prior_initial)
        return float(total) + self.rows.minus_kl(self.prior_rows) + self.emission.minus_kl

    def sweep(self, sequences: Sequence[np.ndarray]) -> "HiddenMarkov":
        smoothed = [self.smoothed(y) for y in sequences]
        moves = sum(s.pairs.sum(0) for s in smoothed)
        rows = Dirichlet(self.prior_rows.concentration + moves)
        initial = self.initial
        if self.prior_initial is not None:
            first = sum(s.marginals[0] for s in smoothed)
            initial = Dirichlet(self.prior_initial.concentration + first)
        weights = np.concatenate([s.marginals for s in smoothed])
        y = np.concatenate([self._padded(y) for y in sequences])
        emission = self.emission.updated(weights, y)
        return replace(self, initial=initial, rows=rows, emission=emission)


@dataclass(frozen=True)
class Known:
    """Probabilities that are known."""

    probabilities: np.ndarray

    @property
    def mean_log(self) -> np.ndarray:
        return np.log(self.probabilities)


def _softmax(logs: np.ndarray) -> np.ndarray:
    return np.exp(logs - np.logaddexp.reduce(logs, axis=-1, keepdims=True))
