# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Data that move q far: what is told of them against fits without them, in the same family."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from tests.checks import engine, with_masked_observations
from tests.influence.models import normals

#: Nats within which predictions are those of a refit.
CLOSE = 0.05


def refit(model: Any, *args: Tensor, keep: Tensor) -> Any:
    """A fit from its own start, in which some data are masked."""
    blr, guide = engine(with_masked_observations(model, keep))
    assert blr.fit(*args, tol=1e-8).converged
    return guide


def kept(count: int, out: int) -> Tensor:
    return torch.arange(count) != out


def moments(guide: Any, weights: dict[str, Tensor]) -> tuple[float, float]:
    """Mean and variance of a sum of Gaussian latents that are in one block."""
    block, natural = next((b, n) for b, n in guide.naturals().items() if "slope" in b.placements)
    covariance = torch.linalg.inv(-2 * natural[1].detach())
    along = torch.zeros(len(covariance))
    for site, own in weights.items():
        start = block.placements[site].offset
        along[start : start + len(own)] = own
    mean = along @ covariance @ natural[0].detach()
    return float(mean), float(along @ covariance @ along)


def under_a_latent_variance(mean: float, var: float, law: Any, power: float, y: float) -> float:
    """log E[Normal(y; mean, sqrt(var + t ** power))] over t ~ law, on a grid of log t."""
    log_t = torch.linspace(-12.0, 8.0, 40_001)
    t = log_t.exp()
    density = dist.Normal(mean, (var + t**power).sqrt()).log_prob(torch.tensor(y))
    total = torch.logsumexp(density + law.log_prob(t) + log_t, 0)
    return float(total) + math.log(float(log_t[1] - log_t[0]))


def location_and_precision(y: Tensor) -> None:
    t = pyro.sample("t", dist.Gamma(1.0, 1.0))
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, t.rsqrt()), obs=y)


@pytest.mark.parametrize("outlier", [6.0, 8.0, 20.0, 100.0])
def test_outliers_of_a_normal_sample(outlier: float) -> None:
    y = normals(0, 10)
    y[0] = outlier
    blr, guide = engine(location_and_precision)
    blr.fit(y)
    data = blr.influence(y)
    assert data.unsettled == []
    other = refit(location_and_precision, y, keep=kept(10, 0))
    mu, t = other.marginal("mu"), other.marginal("t")
    expected = under_a_latent_variance(float(mu.mean), float(mu.variance), t, -1.0, outlier)
    assert float(data.loo[0]) == pytest.approx(expected, abs=CLOSE)
    moved = sum(
        float(torch.distributions.kl_divergence(other.marginal(s), guide.marginal(s)))
        for s in ("mu", "t")
    )
    assert float(data.scores[0]) == pytest.approx(moved, rel=2e-2)
    on = data.on(lambda z: z["t"])[0]
    assert float(guide.marginal("t").mean - on) == pytest.approx(float(t.mean), rel=1e-2)
    found = blr.without(0)
    assert found.is_settled
    assert float(found.guide.marginal("t").mean) == pytest.approx(float(t.mean), rel=1e-3)


def regression(X: Tensor, y: Tensor) -> None:
    intercept = pyro.sample("intercept", dist.Normal(0.0, 10.0))
    noise = pyro.sample("noise", dist.InverseGamma(1.0, 1.0))
    with pyro.plate("covariate", X.shape[1]):
        slope = pyro.sample("slope", dist.Normal(0.0, 10.0))
    with pyro.plate("datum", len(y)):
        pyro.sample("y", dist.Normal(intercept + X @ slope, noise.sqrt()), obs=y)


@pytest.mark.parametrize(("count", "outlier"), [(30, 6.0), (100, 5.0), (100, 8.0)])
def test_outliers_of_a_regression(count: int, outlier: float) -> None:
    X = normals(1, count, 2)
    y = 1 + X @ torch.tensor([2.0, -0.5]) + 0.3 * normals(2, count)
    y[0] += outlier
    blr, _ = engine(regression)
    blr.fit(X, y)
    data = blr.influence(X, y)
    assert data.unsettled == []
    other = refit(regression, X, y, keep=kept(count, 0))
    mean, var = moments(other, {"intercept": torch.ones(1), "slope": X[0]})
    noise = other.marginal("noise")
    expected = under_a_latent_variance(mean, var, noise, 1.0, float(y[0]))
    assert float(data.loo[0]) == pytest.approx(expected, abs=CLOSE)
    found = float(data.without(0).guide.marginal("noise").mean)
    assert found == pytest.approx(float(noise.mean), rel=1e-3)


def logistic(X: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 10.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y)


def flips() -> list[Callable[[], tuple[Tensor, Tensor]]]:
    def make(seed: int) -> tuple[Tensor, Tensor]:
        X = normals(seed, 12, 2)
        y = (X[:, 0] > 0).double()
        y[3] = 1 - y[3]
        return X, y

    return [lambda seed=seed: make(seed) for seed in (3, 4, 5)]


@pytest.mark.parametrize("make", flips())
def test_a_wrong_label_among_few(make: Callable[[], tuple[Tensor, Tensor]]) -> None:
    """Without it the classes are apart, and the weights go where the prior lets them."""
    X, y = make()
    blr, guide = engine(logistic)
    blr.fit(X, y)
    data = blr.influence(X, y)
    for n in range(12):
        w = refit(logistic, X, y, keep=kept(12, n)).marginal("w")
        mean, sd = X[n] @ w.mean, (X[n] @ w.covariance_matrix @ X[n]).sqrt()
        grid = torch.linspace(-14.0, 14.0, 20_001)
        own = dist.Bernoulli(logits=mean + sd * grid).log_prob(y[n])
        expected = torch.logsumexp(own + dist.Normal(0.0, 1.0).log_prob(grid), 0)
        expected = expected + (grid[1] - grid[0]).log()
        assert float(data.loo[n]) == pytest.approx(float(expected), abs=CLOSE)
        moved = torch.distributions.kl_divergence(w, guide.marginal("w"))
        assert float(data.scores[n]) == pytest.approx(float(moved), rel=5e-2, abs=5e-3)


def groups(y: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    between = pyro.sample("between", dist.Gamma(1.0, 1.0))
    within = pyro.sample("within", dist.Gamma(1.0, 1.0))
    with pyro.plate("groups", 6, dim=-2):
        a = pyro.sample("a", dist.Normal(mu, between.rsqrt()))
        with pyro.plate("rows", 4, dim=-1):
            pyro.sample("y", dist.Normal(a, within.rsqrt()), obs=y)


@pytest.mark.parametrize("outlier", [6.0, 12.0])
def test_an_outlier_of_a_group(outlier: float) -> None:
    y = normals(6, 6, 4) + 2 * normals(7, 6, 1)
    y[0, 0] = outlier
    blr, _ = engine(groups)
    blr.fit(y)
    data = blr.influence(y)
    assert data.unsettled == []
    keep = torch.ones(6, 4, dtype=torch.bool)
    keep[0, 0] = False
    other = refit(groups, y, keep=keep)
    a, within = other.marginal("a"), other.marginal("within")
    mean, var = float(a.mean.reshape(-1)[0]), float(a.variance.reshape(-1)[0])
    expected = under_a_latent_variance(mean, var, within, -1.0, outlier)
    assert float(data.loo[0, 0]) == pytest.approx(expected, abs=CLOSE)


# ---------------------------------------------------------------------------------- many at once


def test_many_labels_at_once() -> None:
    """28 of 100 labels, without which the classes are apart, and no step is small."""
    X = normals(8, 100, 2)
    y = (X[:, 0] + normals(9, 100) > 0).double()
    wrong = ((X[:, 0] > 0).double() != y).nonzero().flatten()
    assert len(wrong) > 20
    blr, guide = engine(logistic)
    blr.fit(X, y)
    keep = torch.ones(100, dtype=torch.bool)
    keep[wrong] = False
    found = blr.without(wrong)
    assert found.steps > 0
    assert "steps; a further step would move it by" in found.how
    expected = refit(logistic, X, y, keep=keep).marginal("w")
    own = found.guide.marginal("w")
    assert found.is_settled
    assert float(torch.distributions.kl_divergence(own, expected)) < 1e-3
    assert not torch.equal(own.mean, guide.marginal("w").mean)


def test_what_has_not_settled_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from pyro_blr.influence import weighting

    X = normals(8, 100, 2)
    y = (X[:, 0] + normals(9, 100) > 0).double()
    wrong = ((X[:, 0] > 0).double() != y).nonzero().flatten()
    blr, _ = engine(logistic)
    blr.fit(X, y)
    monkeypatch.setattr(weighting, "STEPS", 1)
    found = blr.without(wrong)
    assert not found.is_settled
    assert "not settled, call .fit()" in repr(found)
    found.fit()
    assert found.is_settled


@pytest.mark.parametrize("params", ["em", "natural", "optim"])
def test_parameters_of_the_model_are_held(params: str) -> None:
    def model(y: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(z, scale), obs=y)

    y = torch.tensor([1.0, 2.0, 6.0, 3.0])
    blr, _ = engine(model, params=params)
    blr.fit(y, max_steps=50)
    before = pyro.param("scale").item()
    found = blr.without([2])
    found.fit()
    found.blr.step(y)
    assert pyro.param("scale").item() == before
    left = y[[0, 1, 3]]
    precision = 1 / 4 + 3 / before**2
    assert float(found.guide.marginal("z").mean) == pytest.approx(
        float(left.sum()) / before**2 / precision, rel=1e-6
    )
    assert torch.isfinite(blr.influence(y).loo).all()


# -------------------------------------------------------------------------------- what is not there


def test_a_flat_prior_is_named() -> None:
    def model(y: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    y = torch.tensor([0.0, 1.0, 1.0])
    blr, _ = engine(model)
    blr.fit(y)
    effect = blr.influence(y).prior()["p"]
    assert effect.message == {}
    assert "flat" in effect.verdict


def test_all_data_masked() -> None:
    y = normals(10, 4)
    masked = with_masked_observations(location_and_precision, torch.zeros(4, dtype=torch.bool))
    blr, _ = engine(masked)
    blr.fit(y)
    data = blr.influence(y)
    assert math.isnan(data.elpd)
    assert "nothing to predict" in str(data)
