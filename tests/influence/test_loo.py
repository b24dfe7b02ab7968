# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Predictions of each datum from the others, against refits without it."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_blr.errors import ArgumentError
from pyro_blr.influence.removal import Leaving
from tests.checks import engine, with_masked_observations
from tests.influence.models import (
    MODELS,
    MORE,
    Example,
    cancer,
    logistic_regression,
    normals,
)
from tests.oracles.textbook import ALL, Case

every_case = pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
every_model = pytest.mark.parametrize("example", MODELS, ids=lambda example: example.__name__)


def left_out(data: Any, n: int) -> Tensor:
    keep = torch.ones(data.shape, dtype=torch.bool)
    keep[data.position(n)] = False
    return keep


def refitted(blr: Any, model: Any, args: Any, keep: Tensor) -> Any:
    """A fit of the data that are kept, in the same blocks, from where the guide is."""
    other, _ = engine(with_masked_observations(model, keep), blocks=blr.blocks)
    other.guide.load_state(blr.guide.state())
    other.fit(*args, tol=1e-9)
    return other


def predicted_by(data: Any, n: int, other: Any) -> float:
    """The density of a datum under the q of a refit."""
    part = data._removal.part(torch.tensor([n]))
    own = {b.name: v for b, v in other.view.naturals().items()}
    naturals = {b: tuple(t.detach()[None] for t in own[b.name]) for b in data._removal.naturals}
    return float(data._prediction.log_density(part, Leaving(naturals, part.messages(), False)))


# ------------------------------------------------------------------------------- conjugate models


@every_case
def test_every_conjugate_model_is_exact(case: Case) -> None:
    """log p(y_n | others) is the difference of the evidences with and without it: of refits."""
    problem = case.make(seed=1)
    blr, _ = engine(problem.model)
    blr.step(*problem.args)
    data = blr.influence(*problem.args)
    assert data.is_exact
    every = -blr.evaluate_loss(*problem.args)
    assert every == pytest.approx(problem.log_evidence, rel=1e-10)
    for n in {0, 1, len(data) // 2, len(data) - 1}:
        other = refitted(blr, problem.model, problem.args, left_out(data, n))
        expected = every + other.evaluate_loss(*problem.args)
        assert float(data.loo[data.position(n)]) == pytest.approx(expected, rel=0, abs=1e-10)


@every_case
def test_conjugate_models_are_fitted_first_too(case: Case) -> None:
    problem = case.make(seed=3)
    blr, _ = engine(problem.model)
    with pytest.raises(ArgumentError, match=r"not at an optimum for these data.*Mend: blr.fit"):
        blr.influence(*problem.args)
    blr.step(*problem.args)
    blr.influence(*problem.args)


@pytest.mark.parametrize("case", [ALL[0], ALL[7], ALL[17]], ids=lambda case: case.name)
def test_the_chain_rule_of_evidence(case: Case) -> None:
    """log p(y_1) + log p(y_2 | y_1) + ... is the evidence, one datum after the other taken out."""
    problem = case.make(seed=2)
    blr, _ = engine(problem.model)
    blr.step(*problem.args)
    data = blr.influence(*problem.args)
    total = 0.0
    keep = torch.ones(data.shape, dtype=torch.bool)
    for n in range(len(data)):
        other, _ = engine(with_masked_observations(problem.model, keep.clone()))
        other.step(*problem.args)
        total += float(other.influence(*problem.args).loo[data.position(n)])
        keep[data.position(n)] = False
    assert total == pytest.approx(problem.log_evidence, rel=1e-9)


def test_float32_models() -> None:
    problem = ALL[10].make(dtype=torch.float32)
    exact = ALL[10].make(dtype=torch.float64)
    found = []
    for own in (problem, exact):
        blr, _ = engine(own.model)
        blr.step(*own.args)
        found.append(blr.influence(*own.args).loo.double())
    assert torch.allclose(*found, rtol=1e-5, atol=1e-5)


def test_two_sites_in_one_plate_are_one_datum() -> None:
    def model(x: Tensor, k: Tensor, keep: Any = True) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", len(x)), poutine.mask(mask=keep):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)
            pyro.sample("k", dist.Poisson(rate), obs=k)

    args = (normals(0, 6), torch.tensor([1.0, 0.0, 2.0, 5.0, 1.0, 1.0]))
    blr, _ = engine(model)
    blr.step(*args)
    data = blr.influence(*args)
    for n in range(6):
        other, _ = engine(model)
        other.step(*args, keep=torch.arange(6) != n)
        expected = other.evaluate_loss(*args, keep=torch.arange(6) != n) - blr.evaluate_loss(*args)
        assert float(data.loo[n]) == pytest.approx(expected, abs=1e-10)
    apart = blr.influence(*args, site="x").loo + blr.influence(*args, site="k").loo
    assert torch.allclose(apart, data.loo, atol=1e-10)  # they have no latent in common


def test_a_row_of_a_table_as_one_datum() -> None:
    case = next(c for c in ALL if c.name == "normal_normal_plate")
    problem = case.make()
    blr, _ = engine(problem.model)
    blr.step(*problem.args)
    data = blr.influence(*problem.args, plate="groups")
    assert data.shape == (4,)
    for n in range(4):
        other = refitted(blr, problem.model, problem.args, torch.arange(4) != n)
        expected = other.evaluate_loss(*problem.args) - blr.evaluate_loss(*problem.args)
        assert float(data.loo[n]) == pytest.approx(expected, abs=1e-10)


def test_a_datum_that_counts_twice_is_predicted_once() -> None:
    def model(y: Tensor, scale: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y)), poutine.scale(scale=scale):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    y, scale = normals(1, 5), torch.tensor([1.0, 2.0, 0.5, 1.0, 1.0])
    blr, _ = engine(model)
    blr.step(y, scale)
    loo = blr.influence(y, scale).loo
    for n in range(5):
        rest = torch.arange(5) != n
        precision = 0.25 + scale[rest].sum()
        mean = (scale[rest] * y[rest]).sum() / precision
        expected = dist.Normal(mean, (1 / precision + 1).sqrt()).log_prob(y[n])
        assert float(loo[n]) == pytest.approx(float(expected), abs=1e-12)


def test_missing_data_have_no_prediction() -> None:
    def model(y: Tensor, keep: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y)), poutine.mask(mask=keep):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    y, keep = normals(1, 5), torch.tensor([True, True, False, True, True])
    blr, _ = engine(model)
    blr.step(y, keep)
    data = blr.influence(y, keep)
    assert data.loo.isnan().tolist() == (~keep).tolist()
    assert float(data.scores[2]) == 0.0
    assert math.isfinite(data.elpd)
    assert 2 not in data.ranked(4, by="surprise").tolist()


def test_a_site_without_latents_is_predicted_by_its_own_density() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mu, 1.0), obs=x)
            pyro.sample("y", dist.Normal(0.0, 1.0), obs=y)

    args = normals(0, 6), normals(1, 6)
    blr, _ = engine(model)
    blr.step(*args)
    own = dist.Normal(0.0, 1.0).log_prob(args[1])
    data = blr.influence(*args, site="y")
    assert torch.allclose(data.loo, own, atol=1e-12)
    assert float(data.scores.max()) == 0.0
    both = blr.influence(*args).loo
    assert torch.allclose(both, own + blr.influence(*args, site="x").loo, atol=1e-12)


# ---------------------------------------------------------------------------------------- elsewhere


@every_model
def test_other_models_agree_with_refits(example: Example) -> None:
    """A handful of data, of which each matters: within 5e-3 nats of a refit."""
    model, args = example()
    blr, _ = engine(model)
    blr.fit(*args, tol=1e-9)
    data = blr.influence(*args)
    assert not data.is_exact
    assert data.unsettled == []
    for n in range(0, len(data), 5):
        other = refitted(blr, model, args, left_out(data, n))
        found = float(data.loo[data.position(n)])
        assert found == pytest.approx(predicted_by(data, n, other), rel=0, abs=5e-3)


@pytest.mark.parametrize("example", MORE, ids=lambda example: example.__name__)
def test_models_of_many_blocks_agree_with_refits(example: Example) -> None:
    """Also where a direction of q is flat, and where covariances are shared until data leave."""
    model, args = example()
    blr, _ = engine(model)
    blr.fit(*args)
    data = blr.influence(*args)
    for n in data.ranked()[::10].tolist():
        other = data.without(n)
        other.fit()
        assert float(data.loo[n]) == pytest.approx(predicted_by(data, n, other.blr), abs=5e-3)
    assert data.on(lambda z: next(iter(z.values())).sum()).shape == data.shape
    assert set(data.prior()) == set(blr.view.latents)


@every_model
def test_predictions_agree_with_draws(example: Example) -> None:
    """log E_q[p(datum)] at q itself, by draws of the guide and the model's own densities."""
    model, args = example()
    blr, guide = engine(model)
    blr.fit(*args)
    data = blr.influence(*args)
    part = data._removal.part(torch.arange(len(data)))
    naturals = {b: part.copies.natural(n) for b, n in data._removal.naturals.items()}
    found = data._prediction.log_density(part, Leaving(naturals, part.messages(), False))
    densities = []
    for _ in range(300):
        trace = poutine.trace(poutine.condition(model, guide(*args))).get_trace(*args)
        trace.compute_log_prob()
        densities.append(trace.nodes["y"]["log_prob"].detach().reshape(-1))
    each = torch.stack(densities)
    expected = torch.logsumexp(each, 0) - math.log(len(each))
    error = (each - expected).exp().std(0) / len(each) ** 0.5
    assert ((found - expected).abs() < 5 * error + 1e-6).all()


@pytest.mark.slow
def test_logistic_regression_on_real_data() -> None:
    """Of breast cancer, 15 random data and the 10 that are predicted worst, against refits."""
    X, y = cancer()
    blr, _ = engine(logistic_regression)
    blr.fit(X, y, tol=1e-9)
    data = blr.influence(X, y)
    generator = torch.Generator().manual_seed(0)
    rows = {*data.ranked(10, by="surprise").tolist()}
    rows |= {*torch.randperm(len(y), generator=generator)[:15].tolist()}
    errors = []
    for n in sorted(rows):
        other = refitted(blr, logistic_regression, (X, y), left_out(data, n))
        errors.append(abs(float(data.loo[n]) - predicted_by(data, n, other)))
    assert max(errors) < 0.05
    assert max(errors) < 5e-3  # what it is


def test_elpd_is_the_sum() -> None:
    X, y = cancer()
    blr, _ = engine(logistic_regression)
    blr.fit(X[:60], y[:60])
    data = blr.influence(X[:60], y[:60])
    assert data.elpd == pytest.approx(float(data.loo.sum()))
    assert data.elpd_error == pytest.approx(float(data.loo.std()) * 60**0.5)
    assert data.elpd < -blr.evaluate_loss(X[:60], y[:60]) + 60
