# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Conjugate structures as Pyro users write them: hierarchies, walks, products, rates and shares."""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.spelling_data import COUNTS, GROUP, OTHER, D, G, N, X, Y
from tests.spelling_regression import declare_vector


def _normal(name: str, scale: float | Tensor = 1.0) -> Tensor:
    return pyro.sample(name, dist.Normal(0.0, scale))


def _gamma(name: str) -> Tensor:
    return pyro.sample(name, dist.Gamma(2.0, 1.0))


def varying_slopes() -> None:
    tau = _gamma("tau")
    with pyro.plate("groups", G):
        a, c = _normal("a"), _normal("c")
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(a[GROUP] + c[GROUP] * X[:, 0], tau**-0.5), obs=Y)


def hierarchical_normal() -> None:
    mu, tau, between = _normal("mu"), _gamma("tau"), _gamma("between")
    with pyro.plate("groups", G):
        theta = pyro.sample("theta", dist.Normal(mu, between.rsqrt()))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(theta[GROUP], tau.rsqrt()), obs=Y)


def crossed_effects() -> None:
    tau = _gamma("tau")
    columns, rows = pyro.plate("columns", 8, dim=-1), pyro.plate("rows", N // 8, dim=-2)
    with columns:
        c = _normal("c")
    with rows:
        r = _normal("r")
    with columns, rows:
        pyro.sample("y", dist.Normal(r + c, tau.rsqrt()), obs=Y.reshape(-1, 8))


def random_walk() -> None:
    x, drift, tau = _normal("x0"), _gamma("drift"), _gamma("tau")
    for i in range(6):
        x = pyro.sample(f"x{i + 1}", dist.Normal(0.9 * x, drift.rsqrt()))
        pyro.sample(f"y{i}", dist.Normal(x, tau.rsqrt()), obs=Y[i])


def walk_by_cumsum() -> None:
    tau = _gamma("tau")
    steps = pyro.sample("steps", dist.Normal(0.0, 1.0).expand([N]).to_event(1))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(0.3 * steps.cumsum(-1), tau.rsqrt()), obs=Y)


def matrix_factorisation() -> None:
    tau, offset = _gamma("tau"), _normal("offset")
    with pyro.plate("users", G):
        u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        user_bias = _normal("user_bias")
    with pyro.plate("items", G):
        v = pyro.sample("v", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        item_bias = _normal("item_bias")
    loc = (u[GROUP] * v[OTHER]).sum(-1) + user_bias[GROUP] + item_bias[OTHER] + offset
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(loc, tau.rsqrt()), obs=Y)


def outer_product() -> None:
    tau, u, v = _gamma("tau"), declare_vector(), _normal("v")
    with pyro.plate("columns", 8, dim=-1):
        b = _normal("b")
    loc = torch.outer(u[:1].expand(N // 8) * v, b)
    with pyro.plate("columns_again", 8, dim=-1), pyro.plate("rows", N // 8, dim=-2):
        pyro.sample("y", dist.Normal(loc, tau.rsqrt()), obs=Y.reshape(-1, 8))


def several_outputs() -> None:
    tau = _gamma("tau")
    with pyro.plate("outputs", 2):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        bias = _normal("bias")
    with pyro.plate("data", N // 2):
        loc = F.linear(X[: N // 2], weight, bias)
        pyro.sample("y", dist.Normal(loc, tau.rsqrt()).to_event(1), obs=Y.reshape(-1, 2))


PRECISION = torch.eye(D, dtype=torch.float64) + 0.3
COVARIANCE = torch.linalg.inv(PRECISION)


def gaussian_mean(**covariance: Tensor) -> None:
    mu = pyro.sample("mu", dist.MultivariateNormal(torch.zeros(D), precision_matrix=torch.eye(D)))
    with pyro.plate("data", N):
        pyro.sample("y", dist.MultivariateNormal(2 * mu - 1, **covariance), obs=X)


def gaussian_by_precision() -> None:
    gaussian_mean(precision_matrix=PRECISION)


def gaussian_by_covariance() -> None:
    gaussian_mean(covariance_matrix=COVARIANCE)


def gaussian_by_scale_tril() -> None:
    gaussian_mean(scale_tril=torch.linalg.cholesky(COVARIANCE))


def gamma_rate_of_gammas() -> None:
    rate = _gamma("rate")
    with pyro.plate("groups", G):
        r = pyro.sample("r", dist.Gamma(3.0, rate))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Poisson(r[GROUP] * 1.5), obs=COUNTS)


def product_of_rates() -> None:
    r, s = _gamma("r"), _gamma("s")
    with pyro.plate("data", N):
        pyro.sample("y", dist.Exponential(r * s / 2), obs=Y.abs() + 0.1)


def rates_with_exposure() -> None:
    exposure = X[:, 0].exp()
    with pyro.plate("groups", G):
        r = _gamma("r")
    with pyro.plate("data", N):
        pyro.sample("y", dist.Poisson(torch.mul(exposure, r.index_select(0, GROUP))), obs=COUNTS)


def coin() -> None:
    z = pyro.sample("z", dist.Beta(2.0, 3.0))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Bernoulli(probs=z), obs=(Y > 0).double())


def coin_backwards() -> None:
    z = pyro.sample("z", dist.Beta(2.0, 3.0))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Bernoulli(1 - z), obs=(Y <= 0).double())


def coin_as_categories() -> None:
    z = pyro.sample("z", dist.Beta(2.0, 3.0))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Categorical(torch.stack([1 - z, z])), obs=(Y > 0).long())


def coins_per_group() -> None:
    with pyro.plate("groups", G):
        z = pyro.sample("z", dist.Beta(2.0, 3.0))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Binomial(10, probs=z[GROUP]), obs=COUNTS.clamp(max=10))


def categories() -> None:
    theta = pyro.sample("theta", dist.Dirichlet(torch.tensor([1.0, 2.0, 0.5])))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Categorical(theta), obs=COUNTS.long().clamp(max=2))


def categories_per_group() -> None:
    with pyro.plate("groups", G):
        theta = pyro.sample("theta", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Categorical(probs=theta[GROUP]), obs=COUNTS.long().clamp(max=2))


def precision_of_a_group() -> None:
    mu = _normal("mu")
    with pyro.plate("groups", G):
        tau = _gamma("tau")
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(mu, tau[GROUP] ** -0.5), obs=Y)


def precision_as_a_product() -> None:
    mu, tau, factor = _normal("mu"), _gamma("tau"), _gamma("factor")
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(mu, (tau * factor).rsqrt() * 2), obs=Y)


def shrinkage() -> None:
    tau = _gamma("tau")
    with pyro.plate("features", D):
        precision = _gamma("precision")
        w = _normal("w", precision.rsqrt())
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=Y)


def autoregression() -> None:
    tau = _gamma("tau")
    phi = pyro.sample("phi", dist.Normal(0.0, 0.5).expand([2]).to_event(1))
    with pyro.plate("data", N - 2):
        loc = phi[0] * Y[1:-1] + phi[1] * Y[:-2]
        pyro.sample("y", dist.Normal(loc, tau.rsqrt()), obs=Y[2:])


STRUCTURES = [
    varying_slopes,
    hierarchical_normal,
    crossed_effects,
    random_walk,
    walk_by_cumsum,
    matrix_factorisation,
    outer_product,
    several_outputs,
    gaussian_by_precision,
    gaussian_by_covariance,
    gaussian_by_scale_tril,
    gamma_rate_of_gammas,
    product_of_rates,
    rates_with_exposure,
    coin,
    coin_backwards,
    coin_as_categories,
    coins_per_group,
    categories,
    categories_per_group,
    precision_of_a_group,
    precision_as_a_product,
    shrinkage,
    autoregression,
]
