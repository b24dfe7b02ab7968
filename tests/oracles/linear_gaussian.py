# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Linear Gaussian state space models, by a Kalman smoother and as one dense Gaussian.

z_1 ~ N(m_1, P_1),    z_t+1 = A z_t + b_t + N(0, Q),    y_t = C z_t + N(0, R) where it is seen.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal


@dataclass
class StateSpace:
    """A model and its data, with D states and E observations a time.

    :param inputs: b_t # shape: (T - 1, D)
    :param y: # shape: (T, E)
    :param seen: which times are observed # shape: (T,)
    """

    first_mean: Tensor
    first_cov: Tensor
    transition: Tensor
    inputs: Tensor
    noise: Tensor
    emission: Tensor
    error: Tensor
    y: Tensor
    seen: Tensor


@dataclass
class Smoothed:
    """Means, covariances of each time and of each time with the next, and log p(y)."""

    mean: Tensor
    cov: Tensor
    beside: Tensor
    log_evidence: float


def kalman_smoother(model: StateSpace) -> Smoothed:
    """The filter forwards, and the smoother of Rauch, Tung and Striebel backwards."""
    A, C = model.transition, model.emission
    mean, cov = model.first_mean, model.first_cov
    filtered, evidence = [], 0.0
    for t in range(len(model.y)):
        if t:
            mean = A @ filtered[-1][0] + model.inputs[t - 1]
            cov = A @ filtered[-1][1] @ A.T + model.noise
        if model.seen[t]:
            marginal = MultivariateNormal(C @ mean, C @ cov @ C.T + model.error)
            evidence += float(marginal.log_prob(model.y[t]))
            gain = torch.linalg.solve(marginal.covariance_matrix, C @ cov).T
            mean = mean + gain @ (model.y[t] - marginal.loc)
            # Joseph's form, symmetric and positive.
            keep = torch.eye(len(mean)) - gain @ C
            cov = keep @ cov @ keep.T + gain @ model.error @ gain.T
        filtered.append((mean, cov))
    means, covs, beside = [filtered[-1][0]], [filtered[-1][1]], []
    for t in reversed(range(len(filtered) - 1)):
        m, P = filtered[t]
        ahead = A @ P @ A.T + model.noise
        gain = torch.linalg.solve(ahead, A @ P).T
        covs.append(P + gain @ (covs[-1] - ahead) @ gain.T)
        beside.append(gain @ covs[-2])
        means.append(m + gain @ (means[-1] - A @ m - model.inputs[t]))
    none = torch.zeros(0, len(mean), len(mean))
    return Smoothed(
        torch.stack(means[::-1]),
        torch.stack(covs[::-1]),
        torch.stack(beside[::-1]) if beside else none,
        evidence,
    )


def dense_gaussian(model: StateSpace) -> Smoothed:
    """All times as one vector, whose precision is inverted as a matrix."""
    (T, _), D = model.y.shape, len(model.first_mean)
    prior = Joint(T * D)
    prior.add(_at(0, T, torch.eye(D)), model.first_mean, model.first_cov)
    for t in range(T - 1):
        step = _at(t + 1, T, torch.eye(D)) - _at(t, T, model.transition)
        prior.add(step, model.inputs[t], model.noise)
    for t in range(T):
        if model.seen[t]:
            prior.add(_at(t, T, model.emission), model.y[t], model.error)
    mean, cov = prior.mean.reshape(T, D), prior.cov.reshape(T, D, T, D)
    own = torch.stack([cov[t, :, t] for t in range(T)])
    beside = [cov[t, :, t + 1] for t in range(T - 1)]
    none = torch.zeros(0, D, D)
    return Smoothed(mean, own, torch.stack(beside) if beside else none, prior.log_evidence)


def _at(t: int, T: int, matrix: Tensor) -> Tensor:
    """A matrix that reads time t of the stacked states."""
    D = matrix.shape[1]
    rows = torch.zeros(len(matrix), T * D)
    rows[:, t * D : (t + 1) * D] = matrix
    return rows


class Joint:
    """A vector with any number of factors N(target; M z, R), normalised in the target."""

    def __init__(self, size: int) -> None:
        self.precision = torch.zeros(size, size)
        self.linear = torch.zeros(size)
        self.constant = 0.0

    def add(self, matrix: Tensor, target: Tensor, cov: Tensor) -> None:
        """Multiply by N(target; M z, R)."""
        weighed = torch.linalg.solve(cov, matrix)
        self.precision = self.precision + matrix.T @ weighed
        self.linear = self.linear + weighed.T @ target
        law = MultivariateNormal(torch.zeros(len(target)), cov)
        self.constant += float(law.log_prob(target))

    @property
    def cov(self) -> Tensor:
        """The covariance."""
        return torch.linalg.inv(self.precision)

    @property
    def mean(self) -> Tensor:
        """The mean."""
        return torch.linalg.solve(self.precision, self.linear)

    @property
    def log_evidence(self) -> float:
        """The log of the integral over z."""
        size = len(self.linear)
        square = 0.5 * self.linear @ self.mean - 0.5 * torch.logdet(self.precision)
        return (
            self.constant
            + float(square)
            + 0.5 * size * float(torch.log(torch.tensor(2 * torch.pi)))
        )
