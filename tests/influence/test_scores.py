# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What ranks data: how far q moves, how badly they are predicted, what a quantity becomes."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from tests.checks import engine
from tests.influence.models import (
    cancer,
    coupled_regression,
    logistic,
    logistic_regression,
    normals,
)
from tests.oracles.textbook import ALL

SEEDS = range(10)


def flipped(seed: int) -> tuple[Tensor, Tensor, set[int]]:
    """500 of the tumours by their ten worst measures, 10 of them with the wrong label."""
    generator = torch.Generator().manual_seed(seed)
    X, y = cancer()
    X = X[:, 20:]
    rows = torch.randperm(len(y), generator=generator)[:500]
    X, y = X[rows], y[rows].clone()
    wrong = torch.randperm(500, generator=generator)[:10]
    y[wrong] = 1 - y[wrong]
    return X, y, set(wrong.tolist())


@pytest.mark.parametrize("seed", SEEDS)
def test_wrong_labels_are_among_the_most_influential(seed: int) -> None:
    """At least 8 of 10 wrong labels are among the first 20 of 500, by either ranking."""
    X, y, wrong = flipped(seed)
    blr, _ = engine(logistic_regression)
    blr.fit(X, y)
    data = blr.influence(X, y)
    assert len(wrong & set(data.ranked(20).tolist())) >= 8
    assert len(wrong & set(data.ranked(20, by="surprise").tolist())) >= 8


def test_an_outlier_comes_first() -> None:
    X, y = normals(0, 50, 3), normals(1, 50)
    y[17] += 8.0
    blr, _ = engine(ALL[10].model)
    blr.fit(X, y)
    data = blr.influence(X, y)
    assert data.ranked(1).tolist() == [17]
    assert data.ranked(1, by="surprise").tolist() == [17]
    assert data.ranked().sort().values.tolist() == list(range(50))


def test_scores_are_divergences() -> None:
    problem = ALL[10].make()
    blr, guide = engine(problem.model)
    blr.fit(*problem.args)
    data = blr.influence(*problem.args)
    for n in (0, 9):
        other = data.without(n).guide
        expected = torch.distributions.kl_divergence(other.marginal("w"), guide.marginal("w"))
        assert float(data.scores[n]) == pytest.approx(float(expected), rel=1e-8)


# ------------------------------------------------------------------------------- any quantity


def test_a_mean_moves_by_what_a_refit_says() -> None:
    problem = ALL[10].make()
    blr, guide = engine(problem.model)
    blr.fit(*problem.args)
    data = blr.influence(*problem.args)
    moved = data.on(lambda z: z["w"])
    second = data.on(lambda z: z["w"][0] * z["w"][1])
    assert moved.shape == (30, 4)
    for n in (0, 11, 29):
        other = data.without(n).guide
        before, after = (g.marginal("w") for g in (guide, other))
        assert torch.allclose(moved[n], before.mean - after.mean, rtol=0, atol=1e-10)
        expected = [(q.covariance_matrix + q.mean[:, None] * q.mean)[0, 1] for q in (before, after)]
        assert float(second[n]) == pytest.approx(float(expected[0] - expected[1]), abs=1e-10)


def test_a_probability_moves_by_what_a_refit_says() -> None:
    model, args = logistic()
    blr, guide = engine(model)
    blr.fit(*args, tol=1e-9)
    data = blr.influence(*args)
    x = torch.tensor([1.0, -0.5, 0.3])
    moved = data.on(lambda z: torch.sigmoid(z["w"] @ x))

    def probability(q: Any) -> float:
        own = q.marginal("w")
        mean, sd = own.mean @ x, (x @ own.covariance_matrix @ x).sqrt()
        t = torch.linspace(-8, 8, 400)
        return float(((-0.5 * t**2).softmax(0) * torch.sigmoid(mean + sd * t)).sum())

    for n in (0, 4, 13):
        found = data.without(n)
        found.fit(tol=1e-9)
        expected = probability(guide) - probability(found.guide)
        assert float(moved[n]) == pytest.approx(expected, abs=2e-3)


def test_quantities_of_several_blocks_and_of_other_families() -> None:
    model, args = coupled_regression()
    blr, guide = engine(model)
    blr.fit(*args, tol=1e-9)
    data = blr.influence(*args)
    moved = data.on(lambda z: torch.stack((z["tau"], z["w"].sum())))
    for n in (3, 12):
        found = data.without(n)
        found.fit(tol=1e-9)
        for k, mean in enumerate(("tau", "w")):
            before, after = (q.marginal(mean).mean.sum() for q in (guide, found.guide))
            assert float(moved[n, k]) == pytest.approx(float(before - after), abs=0.02)
    ranked = data.ranked(3, by=data.on(lambda z: z["tau"]))
    assert ranked.tolist() == moved[:, 0].abs().argsort(descending=True)[:3].tolist()


def test_a_quantity_that_is_no_program_for_vmap() -> None:
    model, args = logistic()
    blr, _ = engine(model)
    blr.fit(*args)
    data = blr.influence(*args)
    plain = data.on(lambda z: z["w"][0])
    assert torch.allclose(data.on(lambda z: torch.tensor(z["w"][0].item())), plain)


# ------------------------------------------------------------------------------------- the prior


def gaussian(y: Tensor, loc: Tensor, scale: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(loc, scale))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def prior_of(loc: float, scale: float) -> Any:
    args = (normals(4, 20), torch.tensor(loc), torch.tensor(scale))
    blr, _ = engine(gaussian)
    blr.fit(*args)
    return blr.influence(*args).prior()["mu"], args


def test_the_message_of_a_prior_is_its_natural_parameters() -> None:
    found, _ = prior_of(3.0, 0.5)
    first, second = found.message["mu"]
    assert float(first) == pytest.approx(12.0)
    assert float(second) == pytest.approx(-2.0)


def test_the_pull_of_a_prior_is_the_derivative_in_its_weight() -> None:
    found, (y, loc, _) = prior_of(1.0, 0.5)
    weight, h = 4.0, 1e-5
    means = [(weight * a * loc + y.sum()) / (weight * a + 20) for a in (math.exp(h), math.exp(-h))]
    slope = (means[0] - means[1]) / (2 * h) * (weight + 20) ** 0.5
    assert found.pull == pytest.approx(abs(float(slope)), rel=1e-6)
    assert 0 < found.share < 1
    flat = dist.Normal(y.mean(), 20**-0.5)
    posterior = dist.Normal((weight * loc + y.sum()) / 24, 24**-0.5)
    expected = torch.distributions.kl_divergence(flat, posterior)
    assert found.removed == pytest.approx(float(expected), rel=1e-8)


def test_verdicts() -> None:
    assert prior_of(0.0, 100.0)[0].verdict.startswith("weak")
    assert prior_of(0.5, 0.5)[0].verdict.startswith("felt")
    assert "conflict" in prior_of(20.0, 0.5)[0].verdict


def test_a_prior_without_which_nothing_is_proper() -> None:
    problem = ALL[10].make()
    X, y = problem.args
    wide = torch.cat([X, X[:, :1]], 1)  # a column twice

    def model(X: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(5), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(X @ w, 1.0), obs=y)

    blr, _ = engine(model)
    blr.fit(wide, y)
    assert blr.influence(wide, y).prior()["w"].removed == math.inf
