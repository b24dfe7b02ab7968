# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Near misses: what looks conjugate and is not is never called so, and is evaluated rightly.

`conjugate` means that the expected log density is linear in the mean parameters of each latent
given the others; only then is a step at step size 1 the exact update. A closed form is less.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import Tensor

from tests.checks import engine, factor_of
from tests.estimates import engine_value_and_messages
from tests.oracles import quadrature

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")

ANY = ("exact", "quadrature", "sampled")
X = torch.tensor(
    [[1.0, 0.3], [1.0, -0.8], [1.0, 1.7], [1.0, 0.9], [1.0, -1.6]], dtype=torch.float64
)
Y = torch.tensor([0.4, -0.9, 1.3, 0.1, -2.2], dtype=torch.float64)
LABELS = (Y > 0).double()
COUNTS = torch.tensor([1.0, 0.0, 4.0, 2.0, 0.0], dtype=torch.float64)
MEAN = torch.tensor([0.3, -0.6], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.30, 0.12], [0.12, 0.20]], dtype=torch.float64)


# --------------------------------------------- likelihoods of one Gaussian predictor: quadrature


@dataclass(frozen=True)
class Likelihood:
    """A density of y given the predictor f = X @ w; `wide` scales the covariance of q(w)."""

    make: Callable[[Tensor], Any]
    y: Tensor = field(default_factory=lambda: Y)
    tiers: tuple[str, ...] = ("quadrature", "sampled")
    wide: float = 1.0
    kinks: bool = False
    half_width: float = 40.0


# Covariances for which every predictor has a variance of at least 1000, and about 0.1 to 1.
LOGIT_SCALE = 1000 / float((X @ COVARIANCE * X).sum(-1).min())

LIKELIHOODS: dict[str, Likelihood] = {
    "tanh of the predictor": Likelihood(lambda f: dist.Normal(torch.tanh(f), 0.5)),
    "sigmoid as the mean": Likelihood(lambda f: dist.Normal(torch.sigmoid(f), 0.5)),
    "StudentT": Likelihood(lambda f: dist.StudentT(4.0, f, 0.7)),
    "StudentT of a tiny scale": Likelihood(lambda f: dist.StudentT(4.0, f, 0.03 * 0.4)),
    "Cauchy": Likelihood(lambda f: dist.Cauchy(f, 0.5)),
    # E abs(f - y) has a closed form under a Gaussian.
    "Laplace": Likelihood(lambda f: dist.Laplace(f, 0.7), tiers=ANY, kinks=True),
    "logits": Likelihood(lambda f: dist.Bernoulli(logits=f), LABELS),
    "logits of variance 1000": Likelihood(
        lambda f: dist.Bernoulli(logits=f), LABELS, wide=LOGIT_SCALE
    ),
    "probability by a sigmoid": Likelihood(
        lambda f: dist.Bernoulli(probs=torch.sigmoid(f)), LABELS, half_width=20.0
    ),
    "binomial logits": Likelihood(lambda f: dist.Binomial(5, logits=f), COUNTS),
    # Log-normal moments: E exp(f) is closed.
    "Poisson of an exponential": Likelihood(
        lambda f: dist.Poisson(f.exp()), COUNTS, ANY, half_width=30.0
    ),
    "log scale": Likelihood(lambda f: dist.Normal(0.2, (f / 2).exp()), Y, ANY, half_width=30.0),
    # Polynomials of the predictor have Gaussian moments.
    "nearly linear": Likelihood(lambda f: dist.Normal(f + 1e-4 * f**2, 0.7), tiers=ANY),
    "square": Likelihood(lambda f: dist.Normal(f**2, 0.7), tiers=ANY),
    "cube": Likelihood(lambda f: dist.Normal(f - 0.1 * f * f * f, 0.7), tiers=ANY),
    "softplus as the scale": Likelihood(
        lambda f: dist.Normal(0.1, torch.nn.functional.softplus(f) + 0.2)
    ),
    "loc and scale of one predictor": Likelihood(
        lambda f: dist.Normal(f, torch.nn.functional.softplus(f) + 0.2)
    ),
}
CONTROL = Likelihood(lambda f: dist.Normal(f, 0.7), tiers=("exact",))


def gaussian_model(likelihood: Likelihood) -> Callable[[], None]:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("data", len(Y)):
            pyro.sample("y", likelihood.make(X @ w), obs=likelihood.y)

    return model


def by_quadrature(likelihood: Likelihood) -> tuple[float, Tensor, Tensor]:
    """The likelihood's E log p(y | w) and its message to w, one scalar predictor at a time."""
    covariance = likelihood.wide * COVARIANCE
    value, d_mean, d_cov = 0.0, torch.zeros(2), torch.zeros(2, 2)
    for x, y in zip(X, likelihood.y, strict=True):
        mean, sd = float(x @ MEAN), float(x @ covariance @ x) ** 0.5

        def g(f: np.ndarray, y: Tensor = y) -> Tensor:
            return likelihood.make(torch.as_tensor(f)).log_prob(y)

        kinks = (float(y),) if likelihood.kinks else ()
        e = quadrature.expectation(g, mean, sd, kinks=kinks, half_width=likelihood.half_width)
        value += e.value
        d_mean += e.d_mean * x
        d_cov += e.d_variance * torch.outer(x, x)
    # (E w, E ww'): the derivative in E w at fixed E ww' moves the covariance by -2 mean dmean.
    return value, d_mean - 2 * d_cov @ MEAN, d_cov


def engine_of(likelihood: Likelihood, particles: int = 1) -> Any:
    q = {"w": dist.MultivariateNormal(MEAN, covariance_matrix=likelihood.wide * COVARIANCE)}
    loss = Trace_ELBO(num_particles=particles)
    blr, _ = engine(gaussian_model(likelihood), q, blocks="site", loss=loss)
    prior = -math.log(2 * math.pi) - 0.5 * (
        MEAN.square().sum() + likelihood.wide * COVARIANCE.trace()
    )
    return blr, q["w"].entropy() + prior


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_near_miss_is_not_called_conjugate(name: str) -> None:
    blr, _ = engine_of(LIKELIHOODS[name])
    factor = factor_of(blr, "y")
    assert not factor.conjugate
    assert factor.tier in LIKELIHOODS[name].tiers
    prior = factor_of(blr, "w")
    assert prior.conjugate
    assert prior.tier == "exact"


def test_the_control_is_called_conjugate() -> None:
    """A plain regression by the same code: or "never conjugate" would pass every test above."""
    blr, _ = engine_of(CONTROL)
    assert factor_of(blr, "y").conjugate
    assert factor_of(blr, "y").tier == "exact"


@pytest.mark.parametrize("name", [*LIKELIHOODS, "the control"])
def test_value_and_gradient_agree_with_fine_quadrature(name: str) -> None:
    likelihood = LIKELIHOODS.get(name, CONTROL)
    blr, rest = engine_of(likelihood, particles=4)
    factor = factor_of(blr, "y")
    value, first, second = by_quadrature(likelihood)
    second = second - 0.5 * torch.eye(2)  # the message of the prior
    repeats = 20 if factor.tier == "sampled" else 1
    rows = [engine_value_and_messages(blr) for _ in range(repeats)]
    pairs = [
        (torch.stack([v.double() - rest for v, _ in rows]), torch.tensor(value)),
        (torch.stack([m["w"][0] for _, m in rows]), first),
        (torch.stack([m["w"][1] for _, m in rows]), second),
    ]
    for i, (found, expected) in enumerate(pairs):
        error = (found.mean(0) - expected).abs()
        scale = max(float(expected.abs().max()), 1.0)
        if factor.tier == "sampled":
            assert (error < 6.5 * found.std(0) / repeats**0.5 + 1e-9 * scale).all()
        elif factor.tier == "exact":
            assert float(error.max()) < 1e-9 * scale
        else:
            # quad_tol is 1e-8 nats a datum for the value; a derivative in a moment of f loses
            # a factor of about 1/variance of it, here at most 100.
            tolerance = len(Y) * 1e-8 if i == 0 else 1e-6 * scale
            assert float(error.max()) < tolerance, (factor, found, expected)


@pytest.mark.parametrize("name", ["logits", "StudentT", "logits of variance 1000", "Cauchy"])
def test_reported_error_bounds_the_true_one(name: str) -> None:
    likelihood = LIKELIHOODS[name]
    blr, rest = engine_of(likelihood)
    factor = factor_of(blr, "y")
    if factor.tier != "quadrature":
        return
    true_error = abs(-blr.evaluate_loss() - float(rest) - by_quadrature(likelihood)[0])
    assert 0 <= factor.error <= len(Y) * 1e-8
    assert true_error <= max(10 * factor.error, 1e-11 * abs(by_quadrature(likelihood)[0]))
