# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Variational Bayes EM of a stochastic block model, written out in NumPy.

Pairs i < j, ``A_ij ~ Bernoulli(B[z_i, z_j])``, ``B_kl ~ Beta(1, 1)``, ``z_i ~ Categorical(share)``,
``share ~ Dirichlet(1)``; q is Dirichlet, Betas and a table of probabilities tau (Daudin, Picard &
Robin 2008; with priors Latouche, Birmele & Ambroise 2012). Coordinate ascent: nodes one by one.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, digamma, gammaln, xlogy


@dataclass
class BlockModelFit:
    """q of one state.

    :param tau: probabilities of the blocks. # shape: (N, K)
    :param first, second: the Betas. # shape: (K, K)
    :param alpha: the Dirichlet. # shape: (K,)
    """

    tau: np.ndarray
    first: np.ndarray
    second: np.ndarray
    alpha: np.ndarray


def parameters_of(adjacency: np.ndarray, tau: np.ndarray) -> BlockModelFit:
    """The Dirichlet and the Betas at their optimum given tau."""
    upper = np.triu(np.ones_like(adjacency), 1)
    ones = tau.T @ (upper * adjacency) @ tau
    zeros = tau.T @ (upper * (1 - adjacency)) @ tau
    return BlockModelFit(tau, 1 + ones, 1 + zeros, 1 + tau.sum(0))


def elbo(adjacency: np.ndarray, fit: BlockModelFit) -> float:
    """The ELBO in nats, as expected log densities and entropies."""
    upper = np.triu(np.ones_like(adjacency), 1)
    log_b = digamma(fit.first) - digamma(fit.first + fit.second)
    log_c = digamma(fit.second) - digamma(fit.first + fit.second)
    log_share = digamma(fit.alpha) - digamma(fit.alpha.sum())
    ones = fit.tau.T @ (upper * adjacency) @ fit.tau
    zeros = fit.tau.T @ (upper * (1 - adjacency)) @ fit.tau
    total = (ones * log_b + zeros * log_c).sum() + (fit.tau @ log_share).sum()
    total -= xlogy(fit.tau, fit.tau).sum()
    betas = betaln(fit.first, fit.second) - (fit.first - 1) * log_b - (fit.second - 1) * log_c
    total += betas.sum() + gammaln(len(fit.alpha))
    dirichlet = gammaln(fit.alpha).sum() - gammaln(fit.alpha.sum())
    return float(total + dirichlet - ((fit.alpha - 1) * log_share).sum())


def coordinate_ascent(adjacency: np.ndarray, tau: np.ndarray, sweeps: int) -> list[BlockModelFit]:
    """The states after each sweep: parameters, then the nodes in turn."""
    tau = tau.copy()
    states = []
    for _ in range(sweeps):
        fit = parameters_of(adjacency, tau)
        log_b = digamma(fit.first) - digamma(fit.first + fit.second)
        log_c = digamma(fit.second) - digamma(fit.first + fit.second)
        log_share = digamma(fit.alpha) - digamma(fit.alpha.sum())
        for i in range(len(tau)):
            log_tau = log_share.copy()
            for j in range(len(tau)):
                if i == j:
                    continue
                density = adjacency[i, j] * log_b + (1 - adjacency[i, j]) * log_c
                log_tau += (density if i < j else density.T) @ tau[j]
            weights = np.exp(log_tau - log_tau.max())
            tau[i] = weights / weights.sum()
        states.append(parameters_of(adjacency, tau.copy()))
    return states
