# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Groups with means, and slopes, of their own: eight schools, radon by county, rats."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from .example import Draws, Stan, Synthetic, indices, posterior, vectors


def school_effects(draws: Draws) -> Draws:
    """Stan's transformed parameter theta."""
    mu, tau = draws["mu"], draws["tau"]
    theta = draws["theta_trans"] * tau.unsqueeze(-1) + mu.unsqueeze(-1)
    return {"theta": theta, "mu": mu, "tau": tau}


def synthetic_schools() -> Stan:
    """Five schools."""
    make = Synthetic()
    return {"y": make.normal(5), "sigma": make.positive(5)}


@posterior(
    "eight_schools-eight_schools_noncentered",
    synthetic=synthetic_schools,
    quantities=school_effects,
    closed_form_only=True,
)
def eight_schools_noncentered(y: Tensor, sigma: Tensor) -> None:
    """Effects of coaching in eight schools, with standardised effects."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", len(y)):
        theta_trans = pyro.sample("theta_trans", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(theta_trans * tau + mu, sigma), obs=y)


def radon_and_uranium(stan: Stan) -> tuple[Tensor, Tensor, Tensor, Tensor, int]:
    """Houses, with their county from 0."""
    (county,) = indices(stan, "county_idx")
    log_radon, log_uppm, floor_measure = vectors(stan, "log_radon", "log_uppm", "floor_measure")
    return log_radon, county, log_uppm, floor_measure, stan["J"]


def radon(stan: Stan) -> tuple[Tensor, Tensor, Tensor, int]:
    """Houses, with their county from 0."""
    (county,) = indices(stan, "county_idx")
    log_radon, floor_measure = vectors(stan, "log_radon", "floor_measure")
    return log_radon, county, floor_measure, stan["J"]


def synthetic_radon() -> Stan:
    """Twelve houses in three counties."""
    make = Synthetic()
    return {
        "J": 3,
        "county_idx": make.integers(1, 3, 12),
        "floor_measure": make.integers(0, 1, 12),
        "log_uppm": make.normal(12),
        "log_radon": make.normal(12),
    }


@posterior(
    "radon_mn-radon_hierarchical_intercept_centered",
    arguments=radon_and_uranium,
    synthetic=synthetic_radon,
)
def radon_hierarchical_intercept_centered(
    log_radon: Tensor, county: Tensor, log_uppm: Tensor, floor_measure: Tensor, counties: int
) -> None:
    """Radon by floor and uranium, with an intercept for each county."""
    sigma_alpha = pyro.sample("sigma_alpha", dist.HalfNormal(1.0))
    sigma_y = pyro.sample("sigma_y", dist.HalfNormal(1.0))
    mu_alpha = pyro.sample("mu_alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    with pyro.plate("counties", counties):
        alpha = pyro.sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
    mean = alpha[county] + log_uppm * beta[0] + floor_measure * beta[1]
    with pyro.plate("houses", len(log_radon)):
        pyro.sample("log_radon", dist.Normal(mean, sigma_y), obs=log_radon)


@posterior(
    "radon_mn-radon_variable_intercept_slope_noncentered",
    arguments=radon,
    synthetic=synthetic_radon,
    closed_form_only=True,
)
def radon_variable_intercept_slope_noncentered(
    log_radon: Tensor, county: Tensor, floor_measure: Tensor, counties: int
) -> None:
    """Radon by floor, with a standardised intercept and slope for each county."""
    sigma_y = pyro.sample("sigma_y", dist.HalfNormal(1.0))
    sigma_alpha = pyro.sample("sigma_alpha", dist.HalfNormal(1.0))
    sigma_beta = pyro.sample("sigma_beta", dist.HalfNormal(1.0))
    mu_alpha = pyro.sample("mu_alpha", dist.Normal(0.0, 10.0))
    mu_beta = pyro.sample("mu_beta", dist.Normal(0.0, 10.0))
    with pyro.plate("counties", counties):
        alpha_raw = pyro.sample("alpha_raw", dist.Normal(0.0, 1.0))
        beta_raw = pyro.sample("beta_raw", dist.Normal(0.0, 1.0))
    alpha = mu_alpha + sigma_alpha * alpha_raw
    beta = mu_beta + sigma_beta * beta_raw
    mean = alpha[county] + floor_measure * beta[county]
    with pyro.plate("houses", len(log_radon)):
        pyro.sample("log_radon", dist.Normal(mean, sigma_y), obs=log_radon)


def weights(stan: Stan) -> tuple[Tensor, Tensor, Tensor, int]:
    """Weights, rats from 0, and ages about their mean."""
    (rat,) = indices(stan, "rat")
    y, x = vectors(stan, "y", "x")
    return y, rat, x - stan["xbar"], stan["N"]


def synthetic_weights() -> Stan:
    """Three weights of each of four rats."""
    make = Synthetic()
    return {
        "N": 4,
        "rat": make.integers(1, 4, 12),
        "x": make.normal(12),
        "y": make.normal(12),
        "xbar": 0,
    }


@posterior(
    "rats_data-rats_model",
    arguments=weights,
    synthetic=synthetic_weights,
)
def rats_model(y: Tensor, rat: Tensor, x: Tensor, rats: int) -> None:
    """Weights of rats by age, with a line for each rat; `x` is centred."""
    mu_alpha = pyro.sample("mu_alpha", dist.Normal(0.0, 100.0))
    mu_beta = pyro.sample("mu_beta", dist.Normal(0.0, 100.0))
    sigma_y = pyro.sample("sigma_y", dist.ImproperUniform(constraints.positive, (), ()))
    sigma_alpha = pyro.sample("sigma_alpha", dist.ImproperUniform(constraints.positive, (), ()))
    sigma_beta = pyro.sample("sigma_beta", dist.ImproperUniform(constraints.positive, (), ()))
    with pyro.plate("rats", rats):
        alpha = pyro.sample("alpha", dist.Normal(mu_alpha, sigma_alpha))
        beta = pyro.sample("beta", dist.Normal(mu_beta, sigma_beta))
    with pyro.plate("weights", len(y)):
        pyro.sample("y", dist.Normal(alpha[rat] + beta[rat] * x, sigma_y), obs=y)
