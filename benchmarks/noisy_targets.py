# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Targets of noisy steps, whose distance from a Gaussian q is known without noise, and messages."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pyro_blr.families import MultivariateNormal, Natural

FAMILY = MultivariateNormal()
#: Condition numbers of the targets' precisions, evenly in their logarithm.
MOST_CONDITION = 1e3
DEGREES = 4.0
#: Points of the trapezoidal rule for an expectation over one Gaussian, and how many sd it reaches.
POINTS, REACH = 401, 8.0


@dataclass(frozen=True)
class Target:
    """A density of a vector z, up to a constant.

    :param gradient: of log p, a row a draw. # shape: (draws, D) -> (draws, D)
    :param gap: KL(q || p) less its least value over Gaussians q, in nats.
    """

    gradient: Callable[[Tensor], Tensor]
    gap: Callable[[Natural], float]
    size: int

    def start(self) -> Natural:
        """The standard normal."""
        return torch.zeros(self.size), -0.5 * torch.eye(self.size)


def axes(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random axes, precisions along them and a mean."""
    rotation = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
    condition = math.log(MOST_CONDITION) * float(torch.rand((), generator=generator))
    precisions = (condition * torch.linspace(-0.5, 0.5, size)).exp()
    return rotation, precisions, torch.randn(size, generator=generator)


def gaussian(size: int, generator: torch.Generator) -> Target:
    """A Gaussian: its Hessian is the same everywhere."""
    rotation, precisions, mean = axes(size, generator)
    precision = FAMILY.symmetrize((mean, rotation * precisions @ rotation.mT))[1]
    natural = (precision @ mean, -0.5 * precision)
    return Target(lambda z: (mean - z) @ precision, lambda q: float(FAMILY.kl(q, natural)), size)


def student(size: int, generator: torch.Generator) -> Target:
    """Independent Student t along random axes: heavy tails, Hessians that may be indefinite."""
    rotation, precisions, mean = axes(size, generator)
    scale = precisions.rsqrt()

    def gradient(z: Tensor) -> Tensor:
        u = (z - mean) @ rotation / scale
        return (-(DEGREES + 1) * u / (DEGREES + u.square()) / scale) @ rotation.mT

    def minus_elbo(q: Natural) -> float:
        covariance = torch.linalg.inv(-2 * q[1])
        shift = (covariance @ q[0] - mean) @ rotation / scale
        variance = (rotation * (covariance @ rotation)).sum(0) / scale.square()
        return float(expected_energy(shift, variance).sum() - FAMILY.entropy(q))

    variance = best_variance()
    precision = (rotation / (variance * scale.square())) @ rotation.mT
    least = minus_elbo((precision @ mean, -0.5 * precision))
    return Target(gradient, lambda q: minus_elbo(q) - least, size)


def expected_energy(shift: Tensor, variance: Tensor) -> Tensor:
    """-E[log p] of a Student t over a Gaussian, up to a constant, element by element."""
    noise = torch.linspace(-REACH, REACH, POINTS)
    weights = (-0.5 * noise.square()).exp()
    u = shift.unsqueeze(-1) + variance.sqrt().unsqueeze(-1) * noise
    energy = 0.5 * (DEGREES + 1) * (u.square() / DEGREES).log1p()
    return (energy * weights / weights.sum()).sum(-1)


def best_variance() -> Tensor:
    """The variance of the Gaussian that is nearest to a Student t, by Newton's steps in its log."""
    log_variance = torch.zeros(1, requires_grad=True)
    for _ in range(30):
        loss = (expected_energy(torch.zeros(1), log_variance.exp()) - 0.5 * log_variance).sum()
        (slope,) = torch.autograd.grad(loss, log_variance, create_graph=True)
        (curvature,) = torch.autograd.grad(slope.sum(), log_variance)
        log_variance = (log_variance - slope / curvature).detach().requires_grad_()
    return log_variance.detach().exp()


def stein_message(
    target: Target, q: Natural, draws: int, generator: torch.Generator, controlled: bool
) -> Natural:
    """The message from gradients at draws of q; its Hessian ``mean(S (z - m) grad')`` as it comes.

    :param controlled: whether q's own precision S, which is what the steps so far have learnt of
        the Hessian, is taken out of the gradients: with ``r = grad + S (z - m)`` the Hessian is
        ``mean(S (z - m) r') - S`` and the gradient mean(r), unbiased, without noise where q = p.
    """
    factor = torch.linalg.cholesky(-2 * q[1])
    mean = torch.cholesky_solve(q[0].unsqueeze(-1), factor).squeeze(-1)
    noise = torch.randn(draws, target.size, generator=generator)
    away = torch.linalg.solve_triangular(factor.mT, noise.mT, upper=True).mT
    gradient, whitened = target.gradient(mean + away), noise @ factor.mT
    if controlled:
        gradient = gradient + whitened
    hessian = whitened.mT @ gradient / draws
    if controlled:
        hessian = hessian + 2 * q[1]
    return gradient.mean(0) - hessian @ mean, 0.5 * hessian
