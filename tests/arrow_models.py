# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Models whose latents are independent along a plate given the others, and models that are not."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

Model = Callable[..., None]

GROUPS, ROWS = 5, 23
GROUP = torch.arange(ROWS) % GROUPS
OTHER = torch.arange(ROWS) % 3
X = torch.linspace(-1.5, 2.0, ROWS)
Y = X.sin() + torch.linspace(0.0, 2.0, GROUPS)[GROUP]


def hierarchical_normal(y: Tensor = Y) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("groups", GROUPS):
        a = pyro.sample("a", dist.Normal(mu, 0.7))
        b = pyro.sample("b", dist.Normal(torch.zeros(2), 0.5).to_event(1))
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", ROWS):
        slopes = (b[GROUP] + w) * torch.stack([X, X**2], -1)
        pyro.sample("y", dist.Normal(a[GROUP] + slopes.sum(-1), 0.3), obs=y)


def random_effects_of_two_plates() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("groups", GROUPS):
        a = pyro.sample("a", dist.Normal(mu, 1.0))
    with pyro.plate("others", 3):
        c = pyro.sample("c", dist.Normal(0.0, 1.0))
    with pyro.plate("data", ROWS):
        pyro.sample("y", dist.Normal(a[GROUP] + c[OTHER], 0.3), obs=Y)


def nested_plates() -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("groups", GROUPS, dim=-2):
        a = pyro.sample("a", dist.Normal(mu, 1.0))
        with pyro.plate("members", 3, dim=-1):
            b = pyro.sample("b", dist.Normal(a, 0.5))
            pyro.sample("y", dist.Normal(b, 0.3), obs=Y[:15].reshape(GROUPS, 3))


def logistic_regression() -> None:
    """Quadrature of correlated intercepts and slopes, and a latent scale of the slopes."""
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("groups", GROUPS):
        a = pyro.sample("a", dist.Normal(mu, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, scale))
    with pyro.plate("data", ROWS):
        logits = a[GROUP] + b[GROUP] * X
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=(Y > 1).to(X))


def poisson_log_normal() -> None:
    """Exponentials of global and local latents together."""
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("groups", GROUPS):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", ROWS):
        rate = (mu + slope * X + a[GROUP]).exp()
        pyro.sample("y", dist.Poisson(rate), obs=Y.abs().round())


def latent_noise() -> None:
    """Two scalars an element that share a block: a global log scale and a local mean."""
    sigma = pyro.sample("sigma", dist.LogNormal(0.0, 0.5))
    with pyro.plate("groups", GROUPS):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", ROWS):
        pyro.sample("y", dist.Normal(a[GROUP], torch.nn.functional.softplus(sigma)), obs=Y)


def vectors_around_one() -> None:
    """Products of equal entries of a global vector and of local ones: a diagonal of S_gn."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("groups", GROUPS):
        b = pyro.sample("b", dist.Normal(w, 0.5).to_event(1))
        pyro.sample("y", dist.Normal(b, 0.3).to_event(1), obs=Y[: 2 * GROUPS].reshape(GROUPS, 2))


def one_global_number_a_group() -> None:
    """A vector outside the plate with an entry for each of its elements."""
    w = pyro.sample("w", dist.Normal(torch.zeros(GROUPS), 1.0).to_event(1))
    pyro.sample("x", dist.Normal(w.sum(), 1.0), obs=Y[0])
    with pyro.plate("groups", GROUPS):
        b = pyro.sample("b", dist.Normal(w, 0.5))
        pyro.sample("y", dist.Normal(b, 0.3), obs=Y[:GROUPS])


def no_global_latent() -> None:
    with pyro.plate("groups", GROUPS):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", ROWS):
        pyro.sample("y", dist.Normal(a[GROUP] + b[GROUP] * X, 0.3), obs=Y)


LINEAR: tuple[Model, ...] = (
    hierarchical_normal,
    random_effects_of_two_plates,
    nested_plates,
    vectors_around_one,
    one_global_number_a_group,
    no_global_latent,
)
CURVED: tuple[Model, ...] = (logistic_regression, poisson_log_normal, latent_noise)


def items_and_persons() -> None:
    """A product of global and local latents, of which the block holds both: degree 4 in it."""
    with pyro.plate("items", 3, dim=-1):
        slope = pyro.sample("slope", dist.Normal(1.0, 0.5))
        level = pyro.sample("level", dist.Normal(0.0, 1.0))
    with pyro.plate("persons", 7, dim=-2):
        ability = pyro.sample("ability", dist.Normal(0.0, 1.0))
    score = slope * (ability - level)
    with pyro.plate("all persons", 7, dim=-2), pyro.plate("all items", 3, dim=-1):
        pyro.sample("y", dist.Normal(score, 0.5), obs=Y[:21].reshape(7, 3))


def local_scales() -> None:
    """Tilts: exponentials of local latents times squares of global ones."""
    mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    spread = pyro.sample("spread", dist.Normal(0.0, 1.0))
    with pyro.plate("groups", GROUPS):
        a = pyro.sample("a", dist.Normal(mu, spread.exp()))
        log_scale = pyro.sample("log_scale", dist.Normal(spread, 0.5))
    with pyro.plate("data", ROWS):
        pyro.sample("y", dist.Normal(a[GROUP] + mu * X, log_scale.exp()[GROUP]), obs=Y)


def crossed_plates_and_a_matrix() -> None:
    """The plate is the last batch dim of one site, and another's event is a matrix."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("groups", 6, dim=-1):
        m = pyro.sample("m", dist.Normal(torch.zeros(2, 2), 1.0).to_event(2))
        with pyro.plate("others", 2, dim=-2):
            v = pyro.sample("v", dist.Normal(m[..., 0, 1] * 0.5, 1.0))
            mean = v + (m @ w).sum(-1)
            with poutine.scale(scale=2.0), poutine.mask(mask=torch.arange(6) != 3):
                pyro.sample("y", dist.Normal(mean, 0.4), obs=Y[:12].reshape(2, 6))


INTRICATE: tuple[Model, ...] = (items_and_persons, local_scales, crossed_plates_and_a_matrix)


def _steps() -> Tensor:
    pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("steps", GROUPS):
        return pyro.sample("a", dist.Normal(0.0, 1.0))


def random_walk() -> None:
    a = _steps()
    with pyro.plate("moves", GROUPS - 1):
        pyro.sample("y", dist.Normal(a[1:] - a[:-1], 0.3), obs=Y[1:GROUPS])


def sum_of_all() -> None:
    pyro.sample("y", dist.Normal(_steps().sum(), 0.3), obs=Y[0])


def logit_of_a_sum() -> None:
    pyro.sample("y", dist.Bernoulli(logits=_steps().sum()), obs=torch.tensor(1.0))


def rate_of_a_sum() -> None:
    pyro.sample("y", dist.Poisson(_steps().mean().exp()), obs=torch.tensor(3.0))


def pairs() -> None:
    a = _steps()
    with pyro.plate("games", ROWS):
        logits = a[GROUP] - a[(GROUP + 1 + OTHER) % GROUPS]
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=(Y > 1).to(X))


ACROSS: tuple[Model, ...] = (random_walk, sum_of_all, logit_of_a_sum, rate_of_a_sum, pairs)
