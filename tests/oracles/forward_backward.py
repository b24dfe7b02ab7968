# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Forward-backward for a hidden Markov model in plain NumPy, in log space."""

import math
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
    # Normalised at every step: the logarithms stay small, and so does their rounding.
    forward, backward, steps = np.empty((T, K)), np.zeros((T, K)), np.empty(T)
    arrived = log_initial
    for t in range(T):
        if t:
            arrived = _log_sum(forward[t - 1][:, None] + log_transition[t - 1], 0)
        forward[t] = arrived + log_likelihood[t]
        steps[t] = _log_sum(forward[t], 0)
        forward[t] -= steps[t]
    later = log_likelihood - steps[:, None]
    for t in range(T - 2, -1, -1):
        backward[t] = _log_sum(log_transition[t] + later[t + 1] + backward[t + 1], 1)
    log_pairs = forward[:-1, :, None] + log_transition + (later + backward)[1:, None, :]
    return Smoothed(math.fsum(steps), np.exp(forward + backward), np.exp(log_pairs))


def silent_start(log_likelihood: np.ndarray) -> np.ndarray:
    """A step in front that emits nothing, as dist.DiscreteHMM has: its initial state moves once
    before the first observation."""
    return np.concatenate([np.zeros((1, log_likelihood.shape[1])), log_likelihood])


def _log_sum(logs: np.ndarray, axis: int) -> np.ndarray:
    # Takes the logarithm of nothing, -inf, without a warning; scipy's logsumexp does not.
    return np.logaddexp.reduce(logs, axis=axis)
