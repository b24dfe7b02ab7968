# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Models whose likelihood depends on two Gaussian scalars a datum, and what an oracle needs."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.estimates import Site


def tensor(*values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


X = tensor([1.0, 0.3], [1.0, -0.8], [1.0, 1.7], [0.0, 0.9], [2.0, 0.0])
Z = tensor([0.2, 1.0], [0.5, 0.9], [-0.3, 0.6], [0.4, -1.8], [0.7, 0.7])
Y = tensor(0.4, -0.9, 1.3, 0.1, -2.2)
LABELS = (Y > 0).double()
COUNTS = tensor(1.0, 0.0, 4.0, 2.0, 0.0)
SHARES = tensor(0.3, 0.7, 0.55, 0.12, 0.9)
ITEM, PERSON = torch.tensor([0, 1, 1, 0, 2]), torch.tensor([1, 0, 1, 0, 1])

NORMAL = Site("normal", 0.4, 0.5)
OTHER = Site("normal", -0.3, 0.4)
PAIR = Site("multivariate", [0.3, -0.4], [[0.6, 0.0], [0.5, 0.3]])

Moments = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A likelihood of y given two scalars f and g.

    :param sites: q of each latent; their priors are standard normal.
    :param make: the likelihood in the model, from the latents.
    :param scalars: f and g as linear functions of the latents laid end to end: two matrices.
    :param density: the likelihood from f and g, by plain torch.
    """

    sites: dict[str, Site]
    make: Callable[..., Any]
    scalars: tuple[Tensor, Tensor]
    density: Callable[[Tensor, Tensor], Any]
    y: Tensor = field(default_factory=lambda: Y)

    def model(self) -> None:
        values = []
        for name, site in self.sites.items():
            shape = site.leaves[0].shape
            prior = dist.Normal(torch.zeros(shape), 1.0)
            if site.kind == "normal" and shape:
                with pyro.plate(f"plate of {name}", len(site.leaves[0])):
                    values.append(pyro.sample(name, prior))
            else:
                values.append(pyro.sample(name, prior.to_event(len(shape))))
        with pyro.plate("data", len(self.y)):
            pyro.sample("y", self.make(*values), obs=self.y)

    def joint(self) -> tuple[Tensor, Tensor]:
        """Mean and covariance of (f, g) for each datum, differentiable in the sites' leaves."""
        means, covariances = [], []
        for site in self.sites.values():
            mean, spread = site.leaves
            if site.kind == "normal":
                covariances.append(
                    (spread**2).diag() if spread.dim() else (spread**2).reshape(1, 1)
                )
            else:
                covariances.append(spread @ spread.mT)
            means.append(mean.reshape(-1))
        rows = torch.stack(self.scalars, 1)
        return rows @ torch.cat(means), rows @ torch.block_diag(*covariances) @ rows.mT


ones, zeros = torch.ones(5, 1, dtype=torch.float64), torch.zeros(5, 1, dtype=torch.float64)


def beside(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """f of the first latent alone, g of the second alone."""
    return (
        torch.cat([left, torch.zeros_like(right)], 1),
        torch.cat([torch.zeros_like(left), right], 1),
    )


def one_hot(index: Tensor, count: int) -> Tensor:
    return F.one_hot(index, count).double()


def _softplus(f: Tensor) -> Tensor:
    return F.softplus(f)


CASES = {
    "sigmoid as the scale": Case(
        {"a": NORMAL, "u": OTHER},
        lambda a, u: dist.Normal(a, 100 * torch.sigmoid(u)),
        beside(ones, ones),
        lambda f, g: dist.Normal(f, 100 * torch.sigmoid(g)),
    ),
    "softplus as the scale": Case(
        {"b": NORMAL, "z": OTHER},
        lambda b, z: dist.Normal(b, F.softplus(z)),
        beside(ones, ones),
        lambda f, g: dist.Normal(f, F.softplus(g)),
    ),
    "robust regression": Case(
        {"w": PAIR, "z": OTHER},
        lambda w, z: dist.StudentT(4.0, X @ w, F.softplus(z)),
        beside(X, ones),
        lambda f, g: dist.StudentT(4.0, f, F.softplus(g)),
    ),
    "discrimination times ability": Case(
        {"u": NORMAL, "theta": OTHER},
        lambda u, theta: dist.Bernoulli(logits=u.exp() * theta),
        beside(ones, ones),
        lambda f, g: dist.Bernoulli(logits=f.exp() * g),
        LABELS,
    ),
    "counts with a latent dispersion": Case(
        {"w": PAIR, "z": OTHER},
        lambda w, z: dist.GammaPoisson(F.softplus(z), F.softplus(z) / (X @ w).exp()),
        beside(X, ones),
        lambda f, g: dist.GammaPoisson(F.softplus(g), F.softplus(g) / f.exp()),
        COUNTS,
    ),
    "negative binomial": Case(
        {"w": PAIR, "z": OTHER},
        lambda w, z: dist.NegativeBinomial(z.exp(), logits=X @ w),
        beside(X, ones),
        lambda f, g: dist.NegativeBinomial(g.exp(), logits=f),
        COUNTS,
    ),
    "shares with a latent concentration": Case(
        {"w": PAIR, "u": OTHER},
        lambda w, u: dist.Beta(torch.sigmoid(X @ w) * u.exp(), torch.sigmoid(-(X @ w)) * u.exp()),
        beside(X, ones),
        lambda f, g: dist.Beta(torch.sigmoid(f) * g.exp(), torch.sigmoid(-f) * g.exp()),
        SHARES,
    ),
    "correlated elements": Case(
        {"w": PAIR},
        lambda w: dist.Normal(w[0], F.softplus(w[1])),
        (torch.cat([ones, zeros], 1), torch.cat([zeros, ones], 1)),
        lambda f, g: dist.Normal(f, F.softplus(g)),
    ),
    "correlated predictors": Case(
        {"w": PAIR},
        lambda w: dist.StudentT(4.0, X @ w, (Z @ w).exp()),
        (X, Z),
        lambda f, g: dist.StudentT(4.0, f, g.exp()),
    ),
    "different elements of one vector": Case(
        {
            "u": Site(
                "multivariate", [0.3, -0.4, 0.1], [[0.6, 0, 0], [0.5, 0.3, 0], [0.1, -0.2, 0.4]]
            )
        },
        lambda u: dist.Normal(torch.tanh(u)[ITEM] * u[(ITEM + 1) % 3].exp(), 0.7),
        (one_hot(ITEM, 3), one_hot((ITEM + 1) % 3, 3)),
        lambda f, g: dist.Normal(torch.tanh(f) * g.exp(), 0.7),
    ),
    "responses of persons to items": Case(
        {
            "u": Site("normal", [0.1, -0.2, 0.3], [0.3, 0.4, 0.2]),
            "b": Site("normal", [0.5, -0.8, 0.3], [0.4, 0.3, 0.5]),
            "theta": Site("normal", [0.2, -0.6], [0.5, 0.4]),
        },
        lambda u, b, theta: dist.Bernoulli(logits=u.exp()[ITEM] * (theta[PERSON] - b[ITEM])),
        beside(one_hot(ITEM, 3), torch.cat([-one_hot(ITEM, 3), one_hot(PERSON, 2)], 1)),
        lambda f, g: dist.Bernoulli(logits=f.exp() * g),
        LABELS,
    ),
    "items and responses in one block": Case(
        {
            "v": Site(
                "multivariate",
                [0.3, -0.4, 0.1],
                [[0.6, 0, 0], [0.5, 0.3, 0], [0.1, -0.2, 0.4]],
            ),
        },
        lambda v: dist.Bernoulli(logits=v[:2].exp()[PERSON] * (v[2] - v[PERSON])),
        (one_hot(PERSON, 3), one_hot(2 * torch.ones_like(PERSON), 3) - one_hot(PERSON, 3)),
        lambda f, g: dist.Bernoulli(logits=f.exp() * g),
        LABELS,
    ),
}
