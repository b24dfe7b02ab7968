# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Models whose every tensor is made on the device, and in the dtype, of their data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


def numbers(like: Tensor, *values: float) -> Any:
    """Scalars of the dtype and on the device of a tensor of floats."""
    made = tuple(like.new_full((), v) for v in values)
    return made if len(made) > 1 else made[0]


def normal_mean(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(*numbers(y, 0.0, 2.0)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def gamma_noise(X: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), 1.0).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(*numbers(X, 2.0, 1.0)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(X @ w, tau**-0.5), obs=y)


def logistic(X: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y)


def schools(scale: Tensor, y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(*numbers(y, 0.0, 5.0)))
    tau = pyro.sample("tau", dist.HalfCauchy(numbers(y, 5.0)))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, scale), obs=y)


def groups(group: Tensor, y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(*numbers(y, 0.0, 2.0)))
    tau = pyro.sample("tau", dist.Gamma(*numbers(y, 2.0, 1.0)))
    with pyro.plate("groups", 4):
        b = pyro.sample("b", dist.Normal(*numbers(y, 0.0, 1.0)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(mu + b[group], tau**-0.5), obs=y)


def walk(y: Tensor) -> None:
    """Tables made from shapes alone: no constant of the model says where they belong."""
    z = [pyro.sample("z0", dist.Normal(*numbers(y, 0.0, 1.0)))]
    for t in range(1, len(y)):
        z.append(pyro.sample(f"z{t}", dist.Normal(z[-1], 1.0)))
    pyro.sample("y", dist.Normal(torch.stack(z), 1.0).to_event(1), obs=y)


def rearranged(X: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(X.new_zeros(6), 1.0).to_event(1))
    v = torch.cat([w.reshape(2, 3).T.reshape(-1)[1:4], w[::2].flip(0).cumsum(0)])
    pyro.sample("y", dist.Normal(X @ v.roll(1, 0), 1.0).to_event(1), obs=y)


def masked(X: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), 1.0).to_event(1))
    seen = torch.ones(len(y), dtype=torch.bool, device=y.device)
    with pyro.plate("rows", len(y)), pyro.poutine.mask(mask=seen), pyro.poutine.scale(scale=2.0):
        pyro.sample("y", dist.Normal((X * w).sum(-1), 1.0), obs=y)


def coin(y: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(*numbers(y, 2.0, 3.0)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def die(y: Tensor, k: Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(y.new_ones(3)))
    with pyro.plate("rows", len(k)):
        pyro.sample("k", dist.Categorical(p), obs=k)


def minibatch(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(*numbers(y, 0.0, 2.0)))
    with pyro.plate("rows", 4 * len(y), subsample_size=len(y), device=y.device):
        z = pyro.sample("z", dist.Normal(mu, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def product(y: Tensor) -> None:
    """No closed form and no single Gaussian scalar: drawn, for a Gaussian and a Gamma."""
    a = pyro.sample("a", dist.Normal(*numbers(y, 0.0, 1.0)))
    b = pyro.sample("b", dist.Normal(*numbers(y, 1.0, 1.0)))
    tau = pyro.sample("tau", dist.Gamma(*numbers(y, 2.0, 1.0)))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(torch.tanh(a * b) + a, tau**-0.5), obs=y)


class Case(NamedTuple):
    """A model, its data on the CPU in float64, and the tier of the likelihood."""

    model: Callable[..., None]
    data: tuple[Tensor, ...]
    tier: str


def cases() -> dict[str, Case]:
    """Every model with data that it fits."""
    generator = torch.Generator().manual_seed(3)
    X = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(20, generator=generator, dtype=torch.float64)
    y = X @ torch.tensor([1.0, -0.5, 0.3], dtype=torch.float64) + noise
    wide = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    effects = torch.tensor([28, 8, -3, 7, -1, 1, 18, 12], dtype=torch.float64)
    scales = torch.tensor([15, 10, 16, 11, 9, 11, 10, 18], dtype=torch.float64)
    return {
        "normal mean": Case(normal_mean, (y,), "exact"),
        "gamma noise": Case(gamma_noise, (X, y), "exact"),
        "logistic": Case(logistic, (X, (y > 0).double()), "quadrature"),
        "schools": Case(schools, (scales, effects), "exact"),
        "groups": Case(groups, (torch.arange(20) % 4, y), "exact"),
        "walk": Case(walk, (y[:5],), "exact"),
        "rearranged": Case(rearranged, (wide, y), "exact"),
        "masked": Case(masked, (X, y), "exact"),
        "coin": Case(coin, ((y > 0).double(),), "exact"),
        "die": Case(die, (y, torch.arange(20) % 3), "exact"),
        "minibatch": Case(minibatch, (y,), "exact"),
        "product": Case(product, (y,), "sampled"),
    }


def moved(
    data: tuple[Tensor, ...], device: torch.device | str, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """The data on a device, floats in a dtype."""
    return tuple(t.to(device, dtype if t.dtype.is_floating_point else t.dtype) for t in data)
