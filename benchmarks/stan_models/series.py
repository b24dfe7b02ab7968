# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Time series and a Gaussian process."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from .example import Draws, Stan, Synthetic, posterior, vectors


def lagged(stan: Stan) -> tuple[Tensor, Tensor]:
    """Each value from the K-th, and the K before it, the last first."""
    (y,) = vectors(stan, "y")
    K = stan["K"]
    return y[K:], torch.stack([y[K - k : len(y) - k] for k in range(1, K + 1)], -1)


def synthetic_lagged() -> Stan:
    """Twenty values, five lags."""
    return {"K": 5, "y": Synthetic().normal(20)}


@posterior(
    "arK-arK",
    arguments=lagged,
    synthetic=synthetic_lagged,
)
def arK(y: Tensor, lags: Tensor) -> None:
    """An autoregression; `lags` holds the K values before each."""
    K = lags.shape[1]
    alpha = pyro.sample("alpha", dist.Normal(0.0, 10.0))
    beta = pyro.sample("beta", dist.Normal(torch.zeros(K), 10.0).to_event(1))
    sigma = pyro.sample("sigma", dist.HalfCauchy(2.5))
    with pyro.plate("times", len(y)):
        pyro.sample("y", dist.Normal(alpha + lags @ beta, sigma), obs=y)


def returns(stan: Stan) -> tuple[Tensor, float]:
    """Returns, and the first standard deviation."""
    return vectors(stan, "y")[0], float(stan["sigma1"])


def synthetic_returns() -> Stan:
    """Six returns."""
    return {"y": Synthetic().normal(6), "sigma1": 0.5}


def garch_parameters(draws: Draws) -> Draws:
    """Stan's names of the shares."""
    alpha1, beta1, _ = draws["shares"].unbind(-1)
    return {"mu": draws["mu"], "alpha0": draws["alpha0"], "alpha1": alpha1, "beta1": beta1}


@posterior(
    "garch-garch11",
    arguments=returns,
    synthetic=synthetic_returns,
    quantities=garch_parameters,
    breaks="sqrt",
)
def garch11(y: Tensor, sigma1: float) -> None:
    """Returns whose variance follows the last return and the last variance.

    Stan's flat prior over alpha1 in (0, 1) and beta1 in (0, 1 - alpha1) is a flat Dirichlet over
    the two and what is left of one.
    """
    mu = pyro.sample("mu", dist.ImproperUniform(constraints.real, (), ()))
    alpha0 = pyro.sample("alpha0", dist.ImproperUniform(constraints.positive, (), ()))
    alpha1, beta1, _ = pyro.sample("shares", dist.Dirichlet(torch.ones(3))).unbind(-1)
    sigma = [torch.as_tensor(sigma1)]
    for t in range(1, len(y)):
        variance = alpha0 + alpha1 * (y[t - 1] - mu) ** 2 + beta1 * sigma[-1] ** 2
        sigma.append(variance.sqrt())
    with pyro.plate("times", len(y)):
        pyro.sample("y", dist.Normal(mu, torch.stack(sigma)), obs=y)


def distances(stan: Stan) -> tuple[Tensor, Tensor]:
    """Values, and the squared distances of their places."""
    x, y = vectors(stan, "x", "y")
    return y, (x.unsqueeze(-1) - x) ** 2


def synthetic_distances() -> Stan:
    """Five places."""
    make = Synthetic()
    return {"x": make.normal(5), "y": make.normal(5)}


@posterior(
    "gp_pois_regr-gp_regr",
    arguments=distances,
    synthetic=synthetic_distances,
    breaks="cholesky",
)
def gp_regr(y: Tensor, squared_distance: Tensor) -> None:
    """A Gaussian process with a squared exponential kernel; `sigma` is the noise variance."""
    rho = pyro.sample("rho", dist.Gamma(25.0, 4.0))
    alpha = pyro.sample("alpha", dist.HalfNormal(2.0))
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    kernel = alpha**2 * (-0.5 * squared_distance / rho**2).exp()
    covariance = kernel + sigma * torch.eye(len(y))
    scale_tril = torch.linalg.cholesky(covariance)
    pyro.sample("y", dist.MultivariateNormal(torch.zeros(len(y)), scale_tril=scale_tril), obs=y)
