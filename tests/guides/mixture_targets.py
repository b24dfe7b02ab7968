# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Targets with several modes in two dimensions, and divergences from them by a fine grid."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

LogDensity = Callable[[Tensor], Tensor]

ARMS = 5


ANGLES = 2 * math.pi * torch.arange(ARMS, dtype=torch.float64) / ARMS
#: Unit vectors along each arm, and across it. # shape: (5, 2)
ALONG = torch.stack([ANGLES.cos(), ANGLES.sin()], -1)
ACROSS = torch.stack([-ANGLES.sin(), ANGLES.cos()], -1)
CENTRES = 1.5 * ALONG


def star(z: Tensor, skew: float = 0.0) -> Tensor:
    """Five arms, each N((1.5, 0), diag(1, 1/100)) turned by a fifth of the circle, and normalised.

    :param skew: how much thinner an arm is towards the centre, by a factor of the distribution
        function of a Cauchy law, which leaves it normalised.
    """
    x, y = z @ ALONG.mT - 1.5, 10 * (z @ ACROSS.mT)
    log_arms = -0.5 * (x.square() + y.square()) + math.log(10 / (2 * math.pi * ARMS))
    if skew:
        log_arms = log_arms + (1 + 2 * torch.atan(skew * x) / math.pi).log()
    return log_arms.logsumexp(-1)


def model_of(log_density: LogDensity, size: int = 2) -> Callable[[], Any]:
    """A model whose one latent, without a prior, has a density."""

    def model() -> None:
        z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), (size,)))
        pyro.factor("target", log_density(z))

    return model


def grid_kl(q: Any, log_density: LogDensity, reach: float = 8.0, nodes: int = 801) -> float:
    """KL(q || p), p being normalised on the grid, too."""
    line = torch.linspace(-reach, reach, nodes, dtype=torch.float64)
    z = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    cell = 2 * (line[1] - line[0]).log()
    log_p, log_q = log_density(z), q.log_prob(z)
    log_p = log_p - log_p.logsumexp(0) - cell
    assert abs(float(log_q.logsumexp(0) + cell)) < 1e-3  # nothing of q is outside
    return float(((log_q + cell).exp() * (log_q - log_p)).sum())
