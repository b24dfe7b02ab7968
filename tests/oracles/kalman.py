# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Kalman filter and the smoother of Rauch, Tung and Striebel, in plain NumPy.

    z_1 ~ N(initial_mean, initial_cov)
    z_{t+1} = transition_t z_t + transition_offset_t + N(0, transition_cov_t)
    y_t = emission_t z_t + emission_offset_t + N(0, emission_cov_t)

Inputs are offsets: ``transition_offset = u @ B.T``. An element of y that is NaN is missing.
dist.GaussianHMM moves its initial state once before the first observation: `silent_start`.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

LOG_2PI = np.log(2 * np.pi)


@dataclass(frozen=True)
class StateSpace:
    """The parameters; each may have an axis of steps in front (T - 1 of the transition's)."""

    initial_mean: np.ndarray  # shape: (D,)
    initial_cov: np.ndarray  # shape: (D, D)
    transition: np.ndarray  # shape: (D, D)
    transition_cov: np.ndarray  # shape: (D, D)
    emission: np.ndarray  # shape: (E, D)
    emission_cov: np.ndarray  # shape: (E, E)
    transition_offset: Any = 0.0  # shape: (D,)
    emission_offset: Any = 0.0  # shape: (E,)

    def transitions(self, T: int) -> zip:
        """(matrix, offset, covariance) of each of T - 1 moves."""
        D = len(self.initial_mean)
        matrix = np.broadcast_to(self.transition, (T - 1, D, D))
        offset = np.broadcast_to(self.transition_offset, (T - 1, D))
        return zip(matrix, offset, np.broadcast_to(self.transition_cov, (T - 1, D, D)), strict=True)

    def emissions(self, T: int) -> zip:
        """(matrix, offset, covariance) of each of T steps."""
        E, D = np.shape(self.emission)[-2:]
        matrix = np.broadcast_to(self.emission, (T, E, D))
        offset = np.broadcast_to(self.emission_offset, (T, E))
        return zip(matrix, offset, np.broadcast_to(self.emission_cov, (T, E, E)), strict=True)


class SmoothedStates(NamedTuple):
    """The posterior of the states of one sequence; the evidence in nats."""

    log_evidence: float
    means: np.ndarray  # shape: (T, D)
    covs: np.ndarray  # shape: (T, D, D)
    cross_covs: np.ndarray  # shape: (T - 1, D, D), Cov(z_t, z_{t+1})


def smooth(model: StateSpace, y: np.ndarray) -> SmoothedStates:
    """Filter forwards, smooth backwards.

    :param y: NaN where missing. # shape: (T, E)
    """
    T = len(y)
    emissions, transitions = list(model.emissions(T)), list(model.transitions(T))
    mean, cov, log_evidence = model.initial_mean, model.initial_cov, 0.0
    filtered, predicted = [], [(mean, cov)]
    for t in range(T):
        mean, cov, log_density = _observe(mean, cov, y[t], *emissions[t])
        filtered.append((mean, cov))
        log_evidence += log_density
        if t < T - 1:
            A, b, Q = transitions[t]
            mean, cov = A @ mean + b, A @ cov @ A.T + Q
            predicted.append((mean, cov))
    means, covs, cross = [mean], [cov], []
    for t in range(T - 2, -1, -1):
        A = transitions[t][0]
        gain = np.linalg.solve(predicted[t + 1][1], A @ filtered[t][1]).T
        cross.append(gain @ cov)
        mean = filtered[t][0] + gain @ (mean - predicted[t + 1][0])
        cov = filtered[t][1] + gain @ (cov - predicted[t + 1][1]) @ gain.T
        means.append(mean)
        covs.append(cov)
    D = len(mean)
    cross = np.stack(cross[::-1]) if cross else np.empty((0, D, D))
    return SmoothedStates(float(log_evidence), np.stack(means[::-1]), np.stack(covs[::-1]), cross)


def _observe(
    mean: np.ndarray, cov: np.ndarray, y: np.ndarray, C: np.ndarray, d: np.ndarray, R: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Condition on the elements of y that are there; their log density."""
    there = ~np.isnan(y)
    if not there.any():
        return mean, cov, 0.0
    C, R, error = C[there], R[np.ix_(there, there)], (y - d)[there] - C[there] @ mean
    spread = C @ cov @ C.T + R
    gain = np.linalg.solve(spread, C @ cov).T
    log_density = -(error @ np.linalg.solve(spread, error)) / 2
    log_density -= (np.linalg.slogdet(spread)[1] + there.sum() * LOG_2PI) / 2
    # Joseph's form stays symmetric and positive definite.
    rest = np.eye(len(mean)) - gain @ C
    return mean + gain @ error, rest @ cov @ rest.T + gain @ R @ gain.T, log_density


def silent_start(y: np.ndarray) -> np.ndarray:
    """A missing step in front, as dist.GaussianHMM has."""
    return np.concatenate([np.full((1, y.shape[1]), np.nan), y])
