# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The regression of the spellings: declarations of its weights, its q, and E_q log p by hand."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from tests.checks import engine, expected_log_joint
from tests.spelling_data import (
    D,
    N,
    Predict,
    X,
    Y,
    assert_close,
    assert_every_factor_exact,
    randn,
)

# One random q, with correlations where the declaration of the latents allows them.
MEAN = randn(D)
_ROOT = randn(D, D)
DENSE = _ROOT @ _ROOT.T / 3 + 0.05 * torch.eye(D, dtype=torch.float64)
SHAPE, RATE = torch.tensor(4.3, dtype=torch.float64), torch.tensor(2.9, dtype=torch.float64)


def declare_vector() -> Tensor:
    return pyro.sample("w", dist.Normal(0.0, 1.0).expand([D]).to_event(1))


def declare_multivariate() -> Tensor:
    return pyro.sample("w", dist.MultivariateNormal(torch.zeros(D), torch.eye(D)))


def declare_plate() -> Tensor:
    with pyro.plate("features", D):
        return pyro.sample("w", dist.Normal(0.0, 1.0))


def declare_scalars() -> Tensor:
    return torch.stack([pyro.sample(f"w{i}", dist.Normal(0.0, 1.0)) for i in range(D)])


def regression(
    predict: Predict = lambda w: X @ w,
    *,
    declare: Callable[[], Tensor] = declare_vector,
    scale: Predict = lambda tau: tau.rsqrt(),
) -> Callable[[], None]:
    def model() -> None:
        w = declare()
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(predict(w), scale(tau)), obs=Y)

    return model


def regression_q(declare: Callable[[], Tensor]) -> tuple[dict[str, Any], Tensor]:
    """A random q for that declaration, and the covariance of w under it."""
    tau = {"tau": dist.Gamma(SHAPE, RATE)}
    if declare in (declare_vector, declare_multivariate):
        return {"w": dist.MultivariateNormal(MEAN, covariance_matrix=DENSE), **tau}, DENSE
    sd = DENSE.diagonal().sqrt()
    if declare is declare_plate:
        return {"w": dist.Normal(MEAN, sd), **tau}, sd.square().diag()
    scalars = {f"w{i}": dist.Normal(MEAN[i], sd[i]) for i in range(D)}
    return {**scalars, **tau}, sd.square().diag()


def regression_by_hand(
    mean: Tensor, second: Tensor, log_tau: Tensor, tau: Tensor, weights: Tensor
) -> Tensor:
    """E_q log p of the regression at the mean parameters E w, E ww', E log tau, E tau."""
    log_2pi = math.log(2 * math.pi)
    squares = Y**2 - 2 * Y * (X @ mean) + torch.einsum("nd,de,ne->n", X, second, X)
    likelihood = (weights * (0.5 * log_tau - 0.5 * log_2pi - 0.5 * tau * squares)).sum()
    prior_w = -0.5 * D * log_2pi - 0.5 * second.trace()
    prior_tau = log_tau - tau  # Gamma(2, 1): both the log of the rate and of Gamma(2) are 0
    return likelihood + prior_w + prior_tau


def mean_params_of_q(covariance: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    second = covariance + torch.outer(MEAN, MEAN)
    return MEAN, second, torch.digamma(SHAPE) - RATE.log(), SHAPE / RATE


def check_regression(
    model: Callable[[], None],
    declare: Callable[[], Tensor] = declare_vector,
    weights: Tensor | None = None,
    blocks: str = "site",
) -> None:
    q, covariance = regression_q(declare)
    weights = torch.ones(N) if weights is None else weights
    blr, _ = engine(model, q, blocks=blocks)
    assert_every_factor_exact(blr)
    # Elements of a plate, each a block, meet in products: linear one by one, not at once.
    together = declare is declare_plate and blocks == "site"
    assert all(f.conjugate for f in blr.explain().factors if not (together and f.site == "y"))
    expected = regression_by_hand(*mean_params_of_q(covariance), weights)
    assert_close(expected_log_joint(blr, q), expected)
