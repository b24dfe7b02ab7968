# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The pieces of ``make demo``: its -ELBO is right, and its table and picture are made."""

import math

import matplotlib
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

from demo import fixed_draws, models, svi
from demo.fixed_draws import FixedDraws, Gaussian
from demo.models import Problem
from demo.picture import save
from demo.table import table


@pytest.fixture(autouse=True)
def small_and_contained(monkeypatch):
    """Few draws; a backend without a window, put back afterwards."""
    monkeypatch.setattr(fixed_draws, "SET_SIZE", 64)
    backend = matplotlib.get_backend()
    yield
    matplotlib.use(backend)


def coupled_model(y):
    a = pyro.sample("a", dist.Normal(0.0, 2.0))
    with pyro.plate("three", 3):
        b = pyro.sample("b", dist.Normal(a, 1.0))
        pyro.sample("y", dist.Normal(b, 0.5), obs=y)


def coupled() -> Problem:
    y = torch.tensor([0.3, -1.0, 2.0])
    names = ("MultivariateNormal",) * 2
    labels = {"a": ["a"], "b": ["b1", "b2", "b3"]}
    return Problem("coupled", coupled_model, (y,), (("a", "b"),), names, 60, 0.1, labels)


def test_the_optimum_on_fixed_draws_is_the_evidence_of_a_gaussian_model():
    problem = coupled()
    draws = FixedDraws(problem)
    start = Gaussian(torch.full((4,), 0.3), 0.2 * torch.eye(4))
    loss = draws.loss(draws.optimum(start))
    covariance = 4.0 * torch.ones(3, 3) + 1.25 * torch.eye(3)
    evidence = dist.MultivariateNormal(torch.zeros(3), covariance).log_prob(*problem.args)
    # Second moments are exact, so every set of draws gives the same number.
    torch.testing.assert_close(loss, -evidence.expand(8), rtol=0, atol=1e-7)


@pytest.mark.parametrize("make", models.PROBLEMS)
def test_fixed_draws_agree_with_pyros_own_loss(make):
    problem = make()
    guide = problem.svi_guide()
    guide(*problem.args)
    draws = FixedDraws(problem)
    losses = draws.loss(Gaussian.of_guide(guide))
    with torch.no_grad():
        each = [Trace_ELBO().loss(problem.model, guide, *problem.args) for _ in range(100)]
    wanted = torch.tensor(each)
    error = math.hypot(wanted.std() / len(wanted) ** 0.5, losses.std() / len(losses) ** 0.5)
    assert abs(losses.mean() - wanted.mean()) < 4 * error


def test_both_engines_have_one_optimum_where_their_families_agree():
    problem = models.eight_schools()
    of_svi = svi.run_svi(problem, num_steps=60)
    of_blr, explanation = svi.run_blr(problem)
    assert of_blr.gap < 1e-6
    assert of_svi.gap > 1
    # 512 draws leave 0.02 nats.
    assert of_blr.optimum == pytest.approx(of_svi.optimum, abs=0.1)
    assert "quadrature" in explanation


def test_every_factor_of_the_diabetes_model_is_exact():
    of_blr, explanation = svi.run_blr(models.diabetes())
    assert of_blr.steps < 12
    assert "quadrature" not in explanation and "sampled" not in explanation
    assert of_blr.seconds_to(0.01) <= of_blr.total
    assert of_blr.seconds_to(-1.0) == math.inf


def test_table_and_picture_are_made(tmp_path):
    svi.warm_up()
    problem = coupled()
    results = [(problem, svi.run_svi(problem), svi.run_blr(problem)[0])] * 2
    text = table(results)
    assert "coupled  SVI" in text and "coupled  BLR" in text and "gap in nats" in text
    path = save(results, tmp_path / "made" / "demo.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert path.stat().st_size > 20_000


def test_snapshots_are_spread_over_the_run():
    kept = svi.snapshots(1000)
    assert {1, 1000} <= kept and max(kept) == 1000
    assert len([k for k in kept if k < 32]) >= 8
