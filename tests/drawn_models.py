# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Models of every shape that a picture has to show, with data."""

from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor
from torch.distributions import constraints

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(12, 2, generator=GENERATOR)
Y = X @ torch.tensor([1.0, -1.0]) + 0.3 * torch.randn(12, generator=GENERATOR)
GRID = (torch.rand(4, 6, generator=GENERATOR) < 0.5).to(Y.dtype)


def regression(x: Tensor, y: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ w, tau.rsqrt()), obs=y)


def hierarchical(x: Tensor, y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    sigma = pyro.sample("sigma", dist.LogNormal(0.0, 1.0))
    with pyro.plate("state", 3):
        a = pyro.sample("a", dist.Normal(mu, 1.0))
        with pyro.plate("county", 2):
            b = pyro.sample("b", dist.Normal(a, sigma))
            with pyro.plate("row", 2):
                pyro.sample("y", dist.Normal(b, 1.0), obs=y.reshape(2, 2, 3))


def crossed(x: Tensor, y: Tensor) -> None:
    students = pyro.plate("students", 6, dim=-1)
    questions = pyro.plate("questions", 4, dim=-2)
    with students:
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
    with questions:
        difficulty = pyro.sample("difficulty", dist.Normal(0.0, 1.0))
    with students, questions:
        pyro.sample("y", dist.Bernoulli(logits=ability - difficulty), obs=GRID)


def mixture(x: Tensor, y: Tensor) -> None:
    pi = pyro.sample("pi", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("k", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(pi))
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def hidden_markov(x: Tensor, y: Tensor) -> None:
    with pyro.plate("k", 2):
        p = pyro.sample("p", dist.Dirichlet(torch.ones(2)))
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    z: Any = 0
    for t in pyro.markov(range(3)):
        z = pyro.sample(f"z_{t}", dist.Categorical(p[z]))
        pyro.sample(f"y_{t}", dist.Normal(mu[z], 1.0), obs=y[t])


def parameters(x: Tensor, y: Tensor) -> None:
    loc = pyro.param("loc", torch.tensor(0.0))
    scale = pyro.param("scale", torch.tensor(1.0), constraint=constraints.positive)
    z = pyro.sample("z", dist.Normal(loc, scale))
    rate = pyro.deterministic("rate", z.exp())
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y.abs().round())


NET = torch.nn.Linear(2, 1)


def module(x: Tensor, y: Tensor) -> None:
    net = pyro.module("net", NET)
    tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(net(x)[:, 0], tau.rsqrt()), obs=y)


class Linear(PyroModule[torch.nn.Linear]):  # type: ignore[misc]
    """A module with a latent weight, a parameter of its own, and one that nothing uses."""

    def __init__(self) -> None:
        super().__init__(2, 1)
        self.weight = PyroSample(dist.Normal(torch.zeros(1, 2), 1.0).to_event(2))
        self.unused = torch.nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor, y: Tensor) -> None:
        mean = super().forward(x)[:, 0] + 0 * self.unused.detach()
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def hidden(x: Tensor, y: Tensor) -> None:
    """A chain in one site, whose observations are on a lower tier than its transitions."""
    p = pyro.sample("p", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    emissions = dist.Bernoulli(logits=mu)
    chain = dist.DiscreteHMM(torch.zeros(2), p.log(), emissions, duration=len(y))
    pyro.sample("y", chain, obs=(y > 0).to(y.dtype))


def sampled(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.factor("norm", -w.norm())
    pyro.sample("obs", dist.Normal(w.norm(), 1.0), obs=y[0])


def improper(x: Tensor, y: Tensor) -> None:
    m = pyro.sample("m", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("data", len(y), subsample_size=5) as rows:
        pyro.sample("y", dist.Normal(m, 1.0), obs=y[rows])


def named(x: Tensor, y: Tensor) -> None:
    """Names that have a meaning to Graphviz and to HTML."""
    m = pyro.sample('a:b "<c>" \\n', dist.Normal(0.0, 1.0))
    with pyro.plate("p<&>\\l", len(y)):
        pyro.sample("node0", dist.Normal(m, 1.0), obs=y)


MODELS = {
    model.__name__: model
    for model in (
        *(regression, hierarchical, crossed, mixture, hidden_markov, parameters, module),
        *(hidden, sampled, improper, named),
    )
}
