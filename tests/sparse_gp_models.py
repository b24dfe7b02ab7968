# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Sparse Gaussian processes in plain Pyro: kernels, data, and one step on a model."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

JITTER = 1e-6
Model = Callable[..., Any]


def data(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = 6 * torch.rand(count, 1, generator=generator) - 3
    return X, torch.sin(2 * X[:, 0]) + 0.3 * torch.randn(count, generator=generator)


def inducing(count: int = 8) -> Tensor:
    return torch.linspace(-3.0, 3.0, count)[:, None]


def fixed(kernel: Any) -> Any:
    for parameter in kernel.parameters():
        parameter.requires_grad_(False)
    return kernel


def rbf() -> Any:
    return gp.kernels.RBF(1, variance=torch.tensor(1.2), lengthscale=torch.tensor(0.7))


def projected(
    kernel: Any, X: Tensor, Z: Tensor, jitter: float = JITTER
) -> tuple[Tensor, Tensor, Tensor]:
    """L of Kzz, ``W = Kxz L^-T`` and the variances of f given u."""
    L = torch.linalg.cholesky(kernel(Z) + jitter * torch.eye(len(Z)))
    W = torch.linalg.solve_triangular(L, kernel(Z, X), upper=False).mT
    return L, W, (kernel(X, diag=True) - W.square().sum(-1)).clamp(min=1e-12)


def white(Z: Tensor) -> Tensor:
    return pyro.sample("u", dist.Normal(torch.zeros(len(Z)), 1.0).to_event(1))


def posterior(blr: BLR) -> Any:
    """q(u), a multivariate normal."""
    (natural,) = blr.guide.naturals().values()
    linear, quadratic = (n.detach() for n in natural)
    covariance = torch.linalg.inv(-2 * quadratic)
    return torch.distributions.MultivariateNormal(covariance @ linear, covariance)


def one_step(model: Model, *args: Any, at_prior: tuple[str, ...] = ()) -> tuple[BLR, float]:
    blr = BLR(model, AutoNatural(model, at_prior=at_prior), step_size=1.0)
    blr.step(*args)
    return blr, blr.evaluate_loss(*args)
