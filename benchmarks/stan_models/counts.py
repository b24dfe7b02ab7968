# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Counts and choices: logistic, binomial, Poisson and item response models with random effects."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from .example import Stan, Synthetic, indices, posterior, vectors


def wells(stan: Stan) -> tuple[Tensor, Tensor]:
    """Distances rescaled."""
    switched, distance = vectors(stan, "switched", "dist")
    return switched, distance / 100


def synthetic_wells() -> Stan:
    """Twelve households."""
    make = Synthetic()
    return {"switched": make.integers(0, 1, 12), "dist": make.positive(12)}


@posterior(
    "wells_data-wells_dist100_model",
    arguments=wells,
    synthetic=synthetic_wells,
)
def wells_dist100_model(switched: Tensor, dist100: Tensor) -> None:
    """Whether a household switches wells, by distance in 100 m."""
    alpha = pyro.sample("alpha", dist.ImproperUniform(constraints.real, (), ()))
    beta = pyro.sample("beta", dist.ImproperUniform(constraints.real, (), ()))
    with pyro.plate("households", len(switched)):
        pyro.sample("switched", dist.Bernoulli(logits=alpha + beta * dist100), obs=switched)


def seeds(stan: Stan) -> tuple[Tensor, ...]:
    """Germinated, sown, seed, root extract and their interaction."""
    n, N, x1, x2 = vectors(stan, "n", "N", "x1", "x2")
    return n, N, x1, x2, x1 * x2


def synthetic_seeds() -> Stan:
    """Eight plates."""
    make = Synthetic()
    return {
        "n": make.integers(0, 7, 8),
        "N": make.integers(8, 12, 8),
        "x1": make.integers(0, 1, 8),
        "x2": make.integers(0, 1, 8),
    }


@posterior(
    "seeds_data-seeds_model",
    arguments=seeds,
    synthetic=synthetic_seeds,
)
def seeds_model(n: Tensor, N: Tensor, x1: Tensor, x2: Tensor, x1x2: Tensor) -> None:
    """Germinated seeds of each plate, overdispersed."""
    alpha0 = pyro.sample("alpha0", dist.Normal(0.0, 1e3))
    alpha1 = pyro.sample("alpha1", dist.Normal(0.0, 1e3))
    alpha2 = pyro.sample("alpha2", dist.Normal(0.0, 1e3))
    alpha12 = pyro.sample("alpha12", dist.Normal(0.0, 1e3))
    tau = pyro.sample("tau", dist.Gamma(1e-3, 1e-3))
    with pyro.plate("plates", len(n)):
        b = pyro.sample("b", dist.Normal(0.0, tau.rsqrt()))
        logits = alpha0 + alpha1 * x1 + alpha2 * x2 + alpha12 * x1x2 + b
        pyro.sample("n", dist.Binomial(N, logits=logits), obs=n)


def votes(stan: Stan) -> tuple[Tensor, Tensor, tuple[Tensor, ...], list[int]]:
    """The columns of Stan's beta in its order, and the groupings from 0."""
    y, black, female, v_prev = vectors(stan, "y", "black", "female", "v_prev_full")
    X = torch.stack([torch.ones_like(y), black, female, v_prev, female * black], -1)
    groupings = ("age", "edu", "age_edu", "state", "region_full")
    return y, X, indices(stan, *groupings), [stan[f"n_{name}"] for name in groupings]


def synthetic_votes() -> Stan:
    """Twenty-four voters."""
    make = Synthetic()
    sizes = {"age": 4, "edu": 4, "age_edu": 6, "state": 5, "region_full": 3}
    return {
        **{name: make.integers(0, 1, 24) for name in ("y", "black", "female")},
        "v_prev_full": make.normal(24),
        **{name: make.integers(1, size, 24) for name, size in sizes.items()},
        **{f"n_{name}": size for name, size in sizes.items()},
    }


@posterior(
    "election88-election88_full",
    arguments=votes,
    synthetic=synthetic_votes,
)
def election88_full(y: Tensor, X: Tensor, groups: tuple[Tensor, ...], sizes: list[int]) -> None:
    """Votes by race, sex and the previous vote, with effects a to e of five groupings."""
    beta = pyro.sample("beta", dist.Normal(torch.zeros(X.shape[1]), 100.0).to_event(1))
    logits = X @ beta
    for name, group, size in zip("abcde", groups, sizes, strict=True):
        sigma = pyro.sample(f"sigma_{name}", dist.Uniform(0.0, 100.0))
        with pyro.plate(f"groups_{name}", size):
            effect = pyro.sample(name, dist.Normal(0.0, sigma))
        logits = logits + effect[group]
    with pyro.plate("voters", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=logits), obs=y)


def synthetic_answers() -> Stan:
    """Four items, five people."""
    return {"y": Synthetic().integers(0, 1, 4, 5)}


@posterior(
    "irt_2pl-irt_2pl",
    synthetic=synthetic_answers,
)
def irt_2pl(y: Tensor) -> None:
    """Answers to items (rows) of people (columns): slope a, difficulty b, ability theta."""
    items, people = y.shape
    sigma_theta = pyro.sample("sigma_theta", dist.HalfCauchy(2.0))
    sigma_a = pyro.sample("sigma_a", dist.HalfCauchy(2.0))
    mu_b = pyro.sample("mu_b", dist.Normal(0.0, 5.0))
    sigma_b = pyro.sample("sigma_b", dist.HalfCauchy(2.0))
    item_plate, people_plate = pyro.plate("items", items, dim=-2), pyro.plate("people", people)
    with people_plate:
        theta = pyro.sample("theta", dist.Normal(0.0, sigma_theta))
    with item_plate:
        a = pyro.sample("a", dist.LogNormal(0.0, sigma_a))
        b = pyro.sample("b", dist.Normal(mu_b, sigma_b))
    with item_plate, people_plate:
        pyro.sample("y", dist.Bernoulli(logits=a * (theta - b)), obs=y)


def peregrines(stan: Stan) -> tuple[Tensor, ...]:
    """Counts, and the powers of the year."""
    C, year = vectors(stan, "C", "year")
    return C, year, year**2, year**3


def synthetic_peregrines() -> Stan:
    """Eight years."""
    make = Synthetic()
    return {"C": make.integers(10, 30, 8), "year": make.normal(8)}


@posterior(
    "GLMM_Poisson_data-GLMM_Poisson_model",
    arguments=peregrines,
    synthetic=synthetic_peregrines,
    breaks="sigmoid",
)
def GLMM_Poisson_model(C: Tensor, year: Tensor, square: Tensor, cube: Tensor) -> None:
    """Counts of peregrines by a cubic in the year, with an effect of each year."""
    alpha = pyro.sample("alpha", dist.Uniform(-20.0, 20.0))
    beta1 = pyro.sample("beta1", dist.Uniform(-10.0, 10.0))
    beta2 = pyro.sample("beta2", dist.Uniform(-10.0, 10.0))
    beta3 = pyro.sample("beta3", dist.Uniform(-10.0, 10.0))
    sigma = pyro.sample("sigma", dist.Uniform(0.0, 5.0))
    with pyro.plate("years", len(C)):
        eps = pyro.sample("eps", dist.Normal(0.0, sigma))
        log_lambda = alpha + beta1 * year + beta2 * square + beta3 * cube + eps
        pyro.sample("C", dist.Poisson(log_lambda.exp()), obs=C)
