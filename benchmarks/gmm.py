# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Mixtures of Gaussians, with diagonal and with full covariances: a sweep against one of BayesPy.

The matrix of a full covariance is a Wishart apart from the mean: BayesPy 0.6.6 has no mixture of
joint Normal-Wisharts.
"""

from collections.abc import Iterator

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from .bayespy_sides import compare
from .discrete import DiscreteProblem, Nodes
from .rows import Row, Settings

NAME = "gmm"
LIMIT = 5.0
#: N, D and K.
SIZES, TINY = ((100_000, 2, 10), (100_000, 8, 10)), ((60, 2, 3),)
#: Standard deviation of the means of the data; the classes' own is one, about.
APART = 8.0
#: Variance of the prior of a mean.
WIDE = 100.0


def run(settings: Settings) -> Iterator[Row]:
    """Both kinds of covariance, in each size."""
    limit = 0.0 if settings.tiny else LIMIT
    for size in TINY if settings.tiny else SIZES:
        for problem in (diagonal(*size), full(*size)):
            yield compare(NAME, problem, limit)


def diagonal_model(y: Tensor, K: int) -> None:
    """A mean and a precision for each class and each column of y."""
    N, D = y.shape
    theta = pyro.sample("theta", dist.Dirichlet(torch.ones(K)))
    with pyro.plate("classes", K, dim=-2), pyro.plate("columns", D, dim=-1):
        mu = pyro.sample("mu", dist.Normal(0.0, WIDE**0.5))
        tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    with pyro.plate("data", N):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()).to_event(1), obs=y)


def full_model(y: Tensor, K: int) -> None:
    """A mean and a precision matrix for each class."""
    N, D = y.shape
    theta = pyro.sample("theta", dist.Dirichlet(torch.ones(K)))
    with pyro.plate("classes", K):
        mu = pyro.sample("mu", dist.MultivariateNormal(torch.zeros(D), WIDE * torch.eye(D)))
        L = pyro.sample("L", dist.Wishart(torch.tensor(D + 1.0), torch.eye(D)))
    with pyro.plate("data", N):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.MultivariateNormal(mu[z], precision_matrix=L[z]), obs=y)


def diagonal_nodes(y: Tensor, K: int) -> Nodes:
    """The same in BayesPy."""
    from bayespy.nodes import Categorical, Dirichlet, Gamma, GaussianARD, Mixture

    N, D = y.shape
    theta = Dirichlet(np.ones(K))
    z = Categorical(theta, plates=(N, 1))
    mu, tau = GaussianARD(0, 1 / WIDE, plates=(D, K)), Gamma(1.0, 1.0, plates=(D, K))
    observed = Mixture(z, GaussianARD, mu, tau)
    observed.observe(y.numpy())
    return Nodes({"theta": theta, "mu": mu, "tau": tau}, z, observed)


def full_nodes(y: Tensor, K: int) -> Nodes:
    """The same in BayesPy."""
    from bayespy.nodes import Categorical, Dirichlet, Gaussian, Mixture, Wishart

    N, D = y.shape
    theta = Dirichlet(np.ones(K))
    z = Categorical(theta, plates=(N,))
    mu = Gaussian(np.zeros(D), np.eye(D) / WIDE, plates=(K,))
    L = Wishart(D + 1.0, np.eye(D), plates=(K,))
    observed = Mixture(z, Gaussian, mu, L)
    observed.observe(y.numpy())
    return Nodes({"theta": theta, "mu": mu, "L": L}, z, observed)


def data(N: int, D: int, K: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows of K classes, of different sizes and widths, and points near the classes' means.

    In two columns some of the classes overlap, and the bound settles in tens of sweeps; half as far
    apart, it needs hundreds.
    """
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=make)

    weights = torch.rand(K, generator=make) + 0.5
    z = torch.multinomial(weights, N, replacement=True, generator=make)
    means, widths = APART * normal(K, D), 0.5 + torch.rand(K, D, generator=make)
    turns = torch.linalg.qr(normal(K, D, D)).Q
    y = means[z] + torch.einsum("nij,nj->ni", turns[z], widths[z] * normal(N, D))
    return y, means + 0.3 * normal(K, D)


def diagonal(N: int, D: int, K: int) -> DiscreteProblem:
    """Both sides start at the points near the means."""
    y, means = data(N, D, K)
    start = {
        "theta": dist.Dirichlet(torch.ones(K)),
        "mu": dist.Normal(means, 0.1),
        "tau": dist.Gamma(torch.ones(K, D), 1.0),
    }
    name = f"diagonal, N={N} D={D} K={K}"
    transposed = frozenset({"mu", "tau"})
    return DiscreteProblem(name, diagonal_model, (y, K), start, diagonal_nodes, transposed)


def full(N: int, D: int, K: int) -> DiscreteProblem:
    """Both sides start at the points near the means."""
    y, means = data(N, D, K)
    eyes = torch.eye(D).expand(K, D, D)
    start = {
        "theta": dist.Dirichlet(torch.ones(K)),
        "mu": dist.MultivariateNormal(means, 0.01 * eyes),
        "L": dist.Wishart(torch.full((K,), D + 1.0), eyes / (D + 1)),
    }
    return DiscreteProblem(f"Wishart, N={N} D={D} K={K}", full_model, (y, K), start, full_nodes)
