# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Models whose data have messages that depend on q, each with data."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

Example = Callable[[], tuple[Any, tuple[Tensor, ...]]]


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def logistic() -> tuple[Any, tuple[Tensor, ...]]:
    def model(X: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y)

    X = normals(0, 20, 3)
    return model, (X, (X.sum(-1) + normals(1, 20) > 0).double())


def poisson() -> tuple[Any, tuple[Tensor, ...]]:
    def model(X: Tensor, y: Tensor) -> None:
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Poisson((a + X @ w).exp()), obs=y)

    X = normals(2, 15, 2)
    return model, (X, (X.sum(-1).exp()).floor())


def coupled_regression() -> tuple[Any, tuple[Tensor, ...]]:
    """The precision apart from the weights: their prior does not scale with it."""

    def model(X: Tensor, y: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(X @ w, tau**-0.5), obs=y)

    X = normals(3, 25, 3)
    return model, (X, X.sum(-1) + 0.5 * normals(4, 25))


def random_effects() -> tuple[Any, tuple[Tensor, ...]]:
    """Groups with a scale of their own, and an intercept: three blocks or two."""

    def model(group: Tensor, y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
        with pyro.plate("groups", 4):
            u = pyro.sample("u", dist.Normal(0.0, tau**-0.5))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu + u[group], 0.7), obs=y)

    group = torch.arange(18) % 4
    return model, (group, normals(5, 4)[group] + 0.7 * normals(6, 18))


def random_slopes() -> tuple[Any, tuple[Tensor, ...]]:
    def model(group: Tensor, x: Tensor, y: Tensor) -> None:
        with pyro.plate("groups", 3):
            a = pyro.sample("a", dist.Normal(0.0, 2.0))
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=a[group] + b[group] * x), obs=y)

    group, x = torch.arange(24) % 3, normals(7, 24)
    return model, (group, x, (x + normals(8, 24) > 0).double())


def latent_scale() -> tuple[Any, tuple[Tensor, ...]]:
    """Two Gaussian scalars for each datum, of which one is the same for all."""

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        s = pyro.sample("s", dist.Normal(0.0, 0.5))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(b * x, torch.nn.functional.softplus(s)), obs=y)

    x = normals(9, 14)
    return model, (x, 0.5 * x + 0.6 * normals(10, 14))


def log_scale() -> tuple[Any, tuple[Tensor, ...]]:
    """In closed form, linear in one block and not in the other."""

    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        s = pyro.sample("s", dist.Normal(0.0, 0.5))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(b * x, s.exp()), obs=y)

    x = normals(9, 14)
    return model, (x, 0.5 * x + 0.6 * normals(10, 14))


def vectors() -> tuple[Any, tuple[Tensor, ...]]:
    """Data of several numbers each, by quadrature: predicted at draws."""

    def model(X: Tensor, y: Tensor) -> None:
        W = pyro.sample("W", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=X @ W).to_event(1), obs=y)

    X = normals(15, 12, 2)
    return model, (X, (X @ normals(16, 2, 3) > 0).double())


def table() -> tuple[Any, tuple[Tensor, ...]]:
    """Rows and columns with effects of their own: data in two plates."""

    def model(y: Tensor) -> None:
        rows, columns = pyro.plate("rows", 4, dim=-2), pyro.plate("columns", 3, dim=-1)
        with rows:
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with columns:
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with rows, columns:
            pyro.sample("y", dist.Poisson((a + b).exp()), obs=y)

    return model, (normals(11, 4, 3).exp().floor(),)


def student() -> tuple[Any, tuple[Tensor, ...]]:
    def model(X: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.StudentT(4.0, X @ w, 0.5), obs=y)

    X = normals(12, 16, 2)
    return model, (X, X.sum(-1) + 0.5 * normals(13, 16))


def local_latents() -> tuple[Any, tuple[Tensor, ...]]:
    """A latent for each datum."""

    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y)):
            u = pyro.sample("u", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Poisson(u.exp()), obs=y)

    return model, (normals(14, 8).exp().floor(),)


MODELS: tuple[Example, ...] = (
    logistic,
    poisson,
    coupled_regression,
    random_effects,
    random_slopes,
    latent_scale,
    log_scale,
    vectors,
    table,
    student,
    local_latents,
)


def cancer(rows: int | None = None) -> tuple[Tensor, Tensor]:
    """Tumours, benign or not, by 30 measures of unit variance."""
    from sklearn.datasets import load_breast_cancer

    X, y = (torch.tensor(part, dtype=torch.float64) for part in load_breast_cancer(return_X_y=True))
    return ((X - X.mean(0)) / X.std(0))[:rows], y[:rows]


def logistic_regression(X: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 5.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(X.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=b + X @ w), obs=y)


# Models whose refits may have other blocks, or whose data are predicted at draws.


def centred() -> tuple[Any, tuple[Tensor, ...]]:
    """A mixed model with both precisions latent: four blocks."""

    def model(group: Tensor, x: Tensor, y: Tensor) -> None:
        a, b = (pyro.sample(name, dist.Normal(0.0, 5.0)) for name in "ab")
        between, within = (pyro.sample(name, dist.Gamma(2.0, 1.0)) for name in ("tu", "ty"))
        with pyro.plate("groups", 5):
            u = pyro.sample("u", dist.Normal(a, between**-0.5))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(u[group] + b * x, within**-0.5), obs=y)

    group, x = torch.arange(30) % 5, normals(17, 30)
    return model, (group, x, x + normals(18, 5)[group] + normals(19, 30))


def not_centred() -> tuple[Any, tuple[Tensor, ...]]:
    """The same by scales with half-normal priors."""

    def model(group: Tensor, x: Tensor, y: Tensor) -> None:
        a, b = (pyro.sample(name, dist.Normal(0.0, 5.0)) for name in "ab")
        between, within = (pyro.sample(name, dist.HalfNormal(1.0)) for name in ("su", "sy"))
        with pyro.plate("groups", 5):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(a + between * u[group] + b * x, within), obs=y)

    return model, centred()[1]


def precision_matrix() -> tuple[Any, tuple[Tensor, ...]]:
    def model(y: Tensor) -> None:
        precision = pyro.sample("precision", dist.Wishart(torch.tensor(5.0), torch.eye(2)))
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.MultivariateNormal(mu, precision_matrix=precision), obs=y)

    return model, (normals(20, 15, 2),)


def scores_and_loadings() -> tuple[Any, tuple[Tensor, ...]]:
    """Probabilistic principal components: rotations, and scores that share a covariance."""

    def model(y: Tensor) -> None:
        with pyro.plate("components", 2):
            W = pyro.sample("W", dist.Normal(torch.zeros(4), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("y", dist.Normal(z @ W, 0.5).to_event(1), obs=y)

    return model, (normals(21, 12, 2) @ normals(22, 2, 4) + 0.5 * normals(23, 12, 4),)


MORE: tuple[Example, ...] = (centred, not_centred, precision_matrix, scores_and_loadings)
