# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Models with priors in plain numbers: on the CPU, wherever the data are."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor


def vector(X: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(X @ w, tau**-0.5), obs=y)


def line(X: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.HalfCauchy(1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(a + b * X[:, 0], s), obs=y)


def logistic(X: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=a + b * X[:, 0]), obs=(y > 0).to(y.dtype))


def groups(X: Tensor, y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("groups", 4):
        b = pyro.sample("b", dist.Normal(mu, 1.0))
    group = torch.arange(len(y), device=y.device) % 4
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(b[group], 1.0), obs=y)


def local(X: Tensor, y: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Normal(m, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def mixture(X: Tensor, y: Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("classes", 3):
        m = pyro.sample("m", dist.Normal(0.0, 5.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(p))
        pyro.sample("y", dist.Normal(m[z], 1.0), obs=y)


def subsample(X: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y), subsample_size=5) as rows:
        pyro.sample("y", dist.Normal(a, 1.0), obs=y[rows])


def drawn(X: Tensor, y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(1.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(torch.tanh(a * b) + a * X[:, 0], 1.0), obs=y)


def chain(X: Tensor, y: Tensor) -> None:
    z = pyro.sample("z_0", dist.Normal(0.0, 1.0))
    for t in range(5):
        pyro.sample(f"y_{t}", dist.Normal(z, 1.0), obs=y[t])
        z = pyro.sample(f"z_{t + 1}", dist.Normal(0.9 * z, 0.5))


def hidden(X: Tensor, y: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(5.0, 2.0))
    with pyro.plate("states", 2):
        m = pyro.sample("m", dist.Normal(0.0, 3.0))
    z = torch.zeros_like(y[0])
    for t in pyro.markov(range(4)):
        stay = torch.where(z == 1, p, 1 - p)
        z = pyro.sample(f"z_{t}", dist.Bernoulli(stay), infer={"enumerate": "parallel"}).long()
        pyro.sample(f"y_{t}", dist.Normal(m[z], 1.0), obs=y[t])


MODELS: dict[str, Callable[[Tensor, Tensor], None]] = {
    f.__name__: f
    for f in (vector, line, logistic, groups, local, mixture, subsample, drawn, chain, hidden)
}


def data(device: Any = "cpu", dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Twenty rows of three columns and their targets, the same on every device."""
    generator = torch.Generator("cpu").manual_seed(5)
    X = torch.randn(20, 3, generator=generator, dtype=torch.float64, device="cpu")
    noise = torch.randn(20, generator=generator, dtype=torch.float64, device="cpu")
    return X.to(device, dtype), (X[:, 0] - 0.5 * X[:, 1] + noise).to(device, dtype)
