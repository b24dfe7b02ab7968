# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""One model on each tier, with the same latents, for the tests of bad input."""

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


X, Y = randn(0, 12), randn(1, 12)


def exact(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y_obs", dist.Normal(w * x, tau.rsqrt()), obs=y)


def by_quadrature(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("other", dist.Normal(0.0, tau.rsqrt()), obs=torch.ones(len(y)))
        pyro.sample("y_obs", dist.StudentT(4.0, w * x, 1.0), obs=y)


def by_draws(x: Tensor, y: Tensor) -> None:
    """Three Gaussian scalars for each datum: two elements of w and the logarithm of tau."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y_obs", dist.Normal(torch.sin(w[0] * x) * tau, 1.0 + torch.cosh(w[1])), obs=y)
