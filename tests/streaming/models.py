# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Conjugate models whose data come in batches, with data for each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.families import Natural
from pyro_blr.guides import AutoNatural

Args = tuple[Tensor, ...]

#: Rows of each case.
COUNT = 8


def normal_mean(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.tensor(1.0), 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 0.5), obs=y)


def beta_bernoulli(y: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(torch.tensor(2.0), 3.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(p), obs=y)


def gamma_poisson(y: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(torch.tensor(2.0), 0.5))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def dirichlet_categorical(y: Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.tensor([0.5, 1.0, 2.0])))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Categorical(p), obs=y)


def normal_gamma(y: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(torch.tensor(2.0), 1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 1 / (0.3 * tau).sqrt()))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=y)


def joint_regression(X: Tensor, y: Tensor) -> None:
    """Weights, an intercept and the precision are one block."""
    tau = pyro.sample("tau", dist.Gamma(torch.tensor(2.0), 1.0))
    scale = tau.rsqrt()
    w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), scale).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 3 * scale))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w + b, scale), obs=y)


def regression(X: Tensor, y: Tensor) -> None:
    """Two Gaussian sites that are merged into one block."""
    w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), 2.0).to_event(1))
    b = pyro.sample("b", dist.Normal(X.new_zeros(()), 5.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w + b, 0.7), obs=y)


def many_outputs(X: Tensor, y: Tensor) -> None:
    """Weights of each output, which share a covariance."""
    with pyro.plate("outputs", y.shape[1], dim=-1):
        w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), 2.0).to_event(1))
        with pyro.plate("data", len(y), dim=-2):
            pyro.sample("y", dist.Normal(X @ w.T, 0.7), obs=y)


def wishart(y: Tensor) -> None:
    eye = torch.eye(2, dtype=y.dtype)
    precision = pyro.sample("precision", dist.Wishart(y.new_tensor(4.0), eye))
    with pyro.plate("data", len(y)):
        law = dist.MultivariateNormal(y.new_zeros(2), precision_matrix=precision)
        pyro.sample("y", law, obs=y)


def group_effects(g: Tensor, y: Tensor) -> None:
    """Linear-Gaussian: a mean and the effects of groups, one arrow-head block."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 3.0))
    with pyro.plate("groups", 5):
        a = pyro.sample("a", dist.Normal(mu, 1.5))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(a[g], 0.5), obs=y)


def random_walk(t: Tensor, y: Tensor) -> None:
    """Linear-Gaussian: states along time, one chain block, seen here and there."""
    x = pyro.sample("x0", dist.Normal(y.new_zeros(()), 1.0))
    states = [x]
    for k in range(1, 6):
        states.append(pyro.sample(f"x{k}", dist.Normal(states[-1], 0.3)))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(torch.stack(states)[t], 0.5), obs=y)


def no_plate(X: Tensor, y: Tensor) -> None:
    """A regression that declares no plate."""
    w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), 2.0).to_event(1))
    pyro.sample("y", dist.Normal(X @ w, 0.7).to_event(1), obs=y)


def schools(y: Tensor) -> None:
    """Each datum has a latent of its own, in one block with the mean that they share."""
    mu = pyro.sample("mu", dist.Normal(y.new_zeros(()), 5.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, 1.5))
        pyro.sample("y", dist.Normal(theta, 0.7), obs=y)


def schools_of_unknown_spread(y: Tensor) -> None:
    """The same, where the spread of the latents is a latent that all data share."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.Gamma(torch.tensor(2.0), 2.0))
    with pyro.plate("schools", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau.rsqrt()))
        pyro.sample("y", dist.Normal(theta, 0.7), obs=y)


def mixture(x: Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("classes", 2):
        mu = pyro.sample("mu", dist.Normal(torch.tensor([-2.0, 2.0]), 3.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Categorical(p))
        pyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)


def logistic(X: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), 2.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y)


def masked_outputs(X: Tensor, y: Tensor, mask: Any) -> None:
    """Outputs of which some are missing, so that rows do not share a covariance."""
    with pyro.plate("outputs", y.shape[1], dim=-1):
        w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), 2.0).to_event(1))
        with pyro.plate("data", len(y), dim=-2), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(X @ w.T, 0.7), obs=y)


@dataclass(frozen=True)
class Case:
    """A model, and data for it.

    :param data: all of them; batches are rows of each tensor.
    """

    model: Callable[..., Any]
    data: Args
    plate: str | None = None

    def rows(self, index: Any) -> Args:
        """Some of the data."""
        return tuple(t[index] for t in self.data)

    @property
    def count(self) -> int:
        """How many data there are."""
        return len(self.data[0])


def data(seed: int = 0, count: int = COUNT, dtype: torch.dtype = torch.float64) -> dict[str, Case]:
    """Every case."""
    g = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64).to(dtype)

    X, groups = normal(count, 3), torch.randint(5, (count,), generator=g)
    y = X @ X.new_tensor([1.0, -2.0, 0.5]) + 0.3 + 0.7 * normal(count)
    binary = (normal(count) > 0.3).to(dtype)
    counts = torch.poisson(torch.full((count,), 3.0, dtype=torch.float64), generator=g).to(dtype)
    classes = torch.randint(3, (count,), generator=g)
    times = torch.randint(6, (count,), generator=g)
    return {
        "normal_mean": Case(normal_mean, (y,)),
        "beta_bernoulli": Case(beta_bernoulli, (binary,)),
        "gamma_poisson": Case(gamma_poisson, (counts,)),
        "dirichlet_categorical": Case(dirichlet_categorical, (classes,)),
        "normal_gamma": Case(normal_gamma, (y,)),
        "joint_regression": Case(joint_regression, (X, y)),
        "regression": Case(regression, (X, y)),
        "many_outputs": Case(many_outputs, (X, X @ normal(3, 2) + normal(count, 2)), "data"),
        "wishart": Case(wishart, (normal(count, 2),)),
        "group_effects": Case(group_effects, (groups, y)),
        "random_walk": Case(random_walk, (times, y)),
        "no_plate": Case(no_plate, (X, y)),
    }


def binary(count: int = 80) -> Case:
    """A logistic regression."""
    g = torch.Generator().manual_seed(0)
    X = torch.randn(count, 3, generator=g, dtype=torch.float64)
    chance = torch.sigmoid(X @ torch.tensor([2.0, -1.0, 0.5], dtype=torch.float64))
    y = (torch.rand(count, generator=g, dtype=torch.float64) < chance).double()
    return Case(logistic, (X, y))


def engine(model: Callable[..., Any], **options: Any) -> BLR:
    """A new engine with a new guide."""
    return BLR(model, AutoNatural(model), **options)


def streamed(case: Case, splits: Sequence[Any], **options: Any) -> BLR:
    """An engine that was given rows of the data, one part after the other."""
    blr = engine(case.model, **options)
    for index in splits:
        blr.update(*case.rows(index), plate=case.plate)
    return blr


def fitted(case: Case, index: Any = slice(None), **options: Any) -> BLR:
    """An engine fitted to rows of the data at once."""
    blr = engine(case.model, **options)
    blr.fit(*case.rows(index))
    return blr


def naturals(blr: BLR) -> dict[str, Natural]:
    """What the guide holds, by block."""
    return {b.name: tuple(t.detach().clone() for t in n) for b, n in blr.view.naturals().items()}


def difference(left: BLR, right: BLR) -> float:
    """The largest difference of natural parameters, as a share of the largest of each tensor."""
    ours, theirs = naturals(left), naturals(right)
    assert set(ours) == set(theirs)
    worst = 0.0
    for name, natural in ours.items():
        for a, b in zip(natural, theirs[name], strict=True):
            if a.numel():
                size = max(float(b.abs().max()), 1e-300)
                worst = max(worst, float((a - b).abs().max()) / size)
    return worst


def is_as_before(blr: BLR, before: dict[str, Natural]) -> bool:
    """Whether the guide holds what it held, bit for bit."""
    now = naturals(blr)
    pairs = (p for n in before for p in zip(before[n], now[n], strict=True))
    return set(now) == set(before) and all(torch.equal(a, b) for a, b in pairs)
