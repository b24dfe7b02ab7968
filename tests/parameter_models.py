# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Models with parameters, and their EM steps written by hand, in the formulas of the textbooks."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

positive = constraints.positive

# Factor analysis: y_n ~ N(W z_n + mu, diag(psi)), z_n ~ N(0, I).

N, D, K = 60, 6, 2


def factor_data() -> Tensor:
    """Rows of a rank K signal with noise."""
    generator = torch.Generator().manual_seed(3)
    signal = torch.randn(N, K, generator=generator) @ torch.randn(K, D, generator=generator)
    return signal + 1.0 + 0.6 * torch.randn(N, D, generator=generator)


def factor_start() -> tuple[Tensor, Tensor, Tensor]:
    """W, mu and psi where EM begins."""
    generator = torch.Generator().manual_seed(4)
    return torch.randn(D, K, generator=generator), torch.zeros(D), torch.full((D,), 1.5)


def _factor_parameters() -> tuple[Tensor, Tensor, Tensor]:
    W, mu, psi = factor_start()
    return (
        pyro.param("W", W),
        pyro.param("mu", mu),
        pyro.param("psi", psi, constraint=positive),
    )


def _events(y: Tensor) -> None:
    W, mu, psi = _factor_parameters()
    with pyro.plate("n", N):
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([K]).to_event(1))
        pyro.sample("y", dist.Normal(z @ W.T + mu, psi.sqrt()).to_event(1), obs=y)


def _plates(y: Tensor) -> None:
    W, mu, psi = _factor_parameters()
    with pyro.plate("n", N, dim=-2):
        z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(K), torch.eye(K)))
        mean = mu + (W * z).sum(-1)
        with pyro.plate("d", D, dim=-1):
            pyro.sample("y", dist.Normal(mean, psi**0.5), obs=y)


def _einsum(y: Tensor) -> None:
    W, mu, psi = _factor_parameters()
    with pyro.plate("n", N):
        z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
        mean = torch.einsum("dk,nk->nd", W, z) + mu.unsqueeze(0)
        pyro.sample("y", dist.Normal(mean, psi.sqrt().unsqueeze(0)).to_event(1), obs=y)


def _columns(y: Tensor) -> None:
    """One site a column, the rows of W and the elements of mu and psi picked by number."""
    W, mu, psi = _factor_parameters()
    with pyro.plate("n", N):
        z = pyro.sample("z", dist.Normal(0.0, torch.ones(K)).to_event(1))
        for d in range(D):
            pyro.sample(f"y{d}", dist.Normal(z @ W[d] + mu[d], psi[d].sqrt()), obs=y[:, d])


FACTOR_ANALYSIS: dict[str, Callable[[Tensor], None]] = {
    "events": _events,
    "plates": _plates,
    "einsum": _einsum,
    "columns": _columns,
}


def factor_em(y: Tensor, W: Tensor, mu: Tensor, psi: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One EM step (Rubin & Thayer 1982): the E-step, then W and mu together, then psi."""
    covariance = torch.linalg.inv(torch.eye(K) + W.T @ (W / psi[:, None]))
    mean = (y - mu) / psi @ W @ covariance
    design = torch.cat([mean, torch.ones(N, 1)], 1)
    second = design.T @ design
    second[:K, :K] += N * covariance
    joint = torch.linalg.solve(second, design.T @ y).T
    W, mu = joint[:, :K], joint[:, K]
    spread = torch.einsum("dk,kl,dl->d", W, covariance, W)
    return W, mu, (y - mean @ W.T - mu).square().mean(0) + spread


def factor_loss(y: Tensor, W: Tensor, mu: Tensor, psi: Tensor) -> Tensor:
    """-log p(y), which -ELBO is after an E-step."""
    return -dist.MultivariateNormal(mu, W @ W.T + torch.diag(psi)).log_prob(y).sum()
