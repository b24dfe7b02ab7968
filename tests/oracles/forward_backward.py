# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Forward-backward for a hidden Markov model in plain NumPy, in log space."""

from typing import NamedTuple

import numpy as np


class Smoothed(NamedTuple):
    """The posterior of the states of one sequence; the evidence in nats."""

    log_evidence: float
    marginals: np.ndarray  # shape: (T, K)
    pairs: np.ndarray  # shape: (T - 1, K, K), of (state t, state t + 1)


def forward_backward(
    log_initial: np.ndarray, log_transition: np.ndarray, log_likelihood: np.ndarray
) -> Smoothed:
    """Smooth: the first state has `log_initial` and emits the first row of `log_likelihood`.

    Nothing need be normalised: expected logs of probabilities give variational Bayes. A row of
    zeros in `log_likelihood` is a missing step.

    :param log_transition: row from, column to. # shape: (K, K), or (T - 1, K, K)
    :param log_likelihood: of each step under each state. # shape: (T, K)
    """
    T, K = log_likelihood.shape
    log_transition = np.broadcast_to(log_transition, (T - 1, K, K))
    forward, backward = np.empty((T, K)), np.zeros((T, K))
    forward[0] = log_initial + log_likelihood[0]
    for t in range(1, T):
        arrived = _log_sum(forward[t - 1][:, None] + log_transition[t - 1], 0)
        forward[t] = arrived + log_likelihood[t]
    for t in range(T - 2, -1, -1):
        later = log_likelihood[t + 1] + backward[t + 1]
        backward[t] = _log_sum(log_transition[t] + later, 1)
    log_evidence = _log_sum(forward[-1], 0)
    later = (log_likelihood + backward)[1:]
    log_pairs = forward[:-1, :, None] + log_transition + later[:, None, :]
    return Smoothed(
        float(log_evidence),
        np.exp(forward + backward - log_evidence),
        np.exp(log_pairs - log_evidence),
    )


def silent_start(log_likelihood: np.ndarray) -> np.ndarray:
    """A step in front that emits nothing, as dist.DiscreteHMM has: its initial state moves once
    before the first observation."""
    return np.concatenate([np.zeros((1, log_likelihood.shape[1])), log_likelihood])


def _log_sum(logs: np.ndarray, axis: int) -> np.ndarray:
    # Takes the logarithm of nothing, -inf, without a warning; scipy's logsumexp does not.
    return np.logaddexp.reduce(logs, axis=axis)
