# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Data removed and weighted after a fit: the posterior of a refit, or a step away from it."""

import copy
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import ImproperPosteriorError
from pyro_blr.guides import AutoNatural
from tests.checks import assert_same_distribution, engine, with_masked_observations
from tests.influence.models import MODELS, Example, cancer, logistic_regression, normals
from tests.oracles.textbook import ALL, Case

every_case = pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
every_model = pytest.mark.parametrize("example", MODELS, ids=lambda example: example.__name__)


def natural_state(guide: Any) -> dict[str, Any]:
    return {b.name: tuple(t.detach().clone() for t in n) for b, n in guide.naturals().items()}


def assert_same(guide: Any, other: Any) -> None:
    """Two guides with the same natural parameters, to 1e-10 of the largest."""
    expected = natural_state(other)
    for name, natural in natural_state(guide).items():
        for found, wanted in zip(natural, expected[name], strict=True):
            assert (found - wanted).abs().max() <= 1e-10 * wanted.abs().max().clamp_min(1.0)


@every_case
def test_conjugate_posteriors_without_data_are_exact(case: Case) -> None:
    problem = case.make(seed=4)
    blr, guide = engine(problem.model)
    blr.fit(*problem.args)
    before = natural_state(guide)
    data = blr.influence(*problem.args)
    keep = torch.ones(data.shape, dtype=torch.bool)
    for n in (0, 2):
        keep[data.position(n)] = False
    found = blr.without([0, 2])
    other, expected = engine(with_masked_observations(problem.model, keep))
    other.step(*problem.args)
    assert_same(found.guide, expected)
    assert found.is_exact
    assert found.residual == 0.0
    assert found.loss == pytest.approx(other.evaluate_loss(*problem.args), rel=1e-10)
    for name, natural in natural_state(guide).items():  # the fit itself is left as it is
        assert all(torch.equal(a, b) for a, b in zip(natural, before[name], strict=True))


@every_model
def test_other_posteriors_are_near_and_fit_goes_on(example: Example) -> None:
    model, args = example()
    blr, guide = engine(model)
    blr.fit(*args, tol=1e-9)
    before = natural_state(guide)
    data = blr.influence(*args)
    keep = torch.ones(data.shape, dtype=torch.bool)
    keep[data.position(1)] = False
    other, _ = engine(with_masked_observations(model, keep), blocks=blr.blocks)
    other.guide.load_state(guide.state())
    start = other.evaluate_loss(*args)
    other.fit(*args, tol=1e-9)
    optimum = other.evaluate_loss(*args)
    found = data.without(1)
    assert not found.is_exact
    assert "first order" in found.how
    gained = (start - found.loss) / (start - optimum)
    assert gained > 0.8  # of what a refit gains, or nearly all of it
    assert found.loss >= optimum - 1e-8
    fit = found.fit(tol=1e-9)
    assert fit.converged
    assert found.loss == pytest.approx(optimum, abs=1e-6)
    for name, natural in natural_state(guide).items():
        assert all(torch.equal(a, b) for a, b in zip(natural, before[name], strict=True))


@every_case
def test_weights_of_one_and_zero_and_two(case: Case) -> None:
    problem = case.make(seed=5)
    blr, guide = engine(problem.model)
    blr.fit(*problem.args)
    same = blr.weighted(torch.ones(blr.influence(*problem.args).shape))
    prior = blr.weighted(0.0)
    assert_same(same.guide, guide)
    for site, expected in problem.prior.items():
        assert_same_distribution(prior.guide.marginal(site), expected, 1e-10)


def test_a_weight_of_two_is_a_datum_twice() -> None:
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    y = normals(2, 4)
    blr, _ = engine(model)
    blr.fit(y)
    twice = blr.weighted([1.0, 2.0, 1.0, 1.0])
    other, guide = engine(model)
    other.fit(torch.cat([y, y[1:2]]))
    assert_same(twice.guide, guide)


def test_what_comes_back_is_a_guide_like_any_other() -> None:
    X, y = cancer(80)
    blr, guide = engine(logistic_regression)
    blr.fit(X, y)
    found = blr.without([3, 5, 8])
    assert isinstance(found.guide, AutoNatural)
    assert isinstance(found.blr, BLR)
    assert found.weights.sum() == 77
    assert set(found.guide.median()) == {"b", "w"}
    assert not torch.equal(found.guide.median()["w"], guide.median()["w"])
    drawn = Predictive(logistic_regression, guide=found.guide, num_samples=7)(X, y)
    assert drawn["w"].squeeze().shape == (7, 30)
    assert copy.deepcopy(found.guide).median()["b"] == found.guide.median()["b"]
    found.fit()
    again = found.blr.influence(X, y)  # what was removed has no influence there
    assert float(again.scores[3]) < 1e-12
    assert again.loo[3].isnan()


@pytest.mark.parametrize("index", [2, [2], torch.tensor([2]), slice(2, 3), -2, [2, 2]])
def test_ways_to_say_which(index: Any) -> None:
    case = ALL[0].make()
    blr, _ = engine(case.model)
    blr.fit(*case.args)
    size = len(case.args[-1])
    index = size - 2 if index == -2 else index
    expected = torch.ones(size)
    expected[size - 2 if index == size - 2 else 2] = 0
    assert torch.equal(blr.without(index).weights, expected)
    assert torch.equal(blr.without(expected == 0, *case.args).weights, expected)


def test_several_plates_are_indexed_by_tuples_masks_and_flat() -> None:
    case = next(c for c in ALL if c.name == "normal_normal_plate").make()
    blr, _ = engine(case.model)
    blr.fit(*case.args)
    mask = torch.zeros(6, 4, dtype=torch.bool)
    mask[2, 1] = True
    found = [blr.without(index) for index in ((2, 1), mask, 9)]
    assert all(torch.equal(f.weights, (~mask).double()) for f in found)
    rows = blr.without((slice(1, 3), slice(None)))
    assert rows.weights.sum() == 16


def test_many_data_at_once() -> None:
    """A fifth of the data of a logistic regression: most of the way, and the rest by fit."""
    X, y = cancer(200)
    blr, _ = engine(logistic_regression)
    blr.fit(X, y, tol=1e-8)
    start = blr.influence(X, y).weighted(torch.ones(200)).loss
    found = blr.without(list(range(40)))
    first = found.loss
    found.fit(tol=1e-8)
    assert found.loss <= first + 1e-9  # or was there already
    assert first - found.loss < 0.1 * abs(start - found.loss)


def test_an_improper_posterior_is_an_error() -> None:
    def model(y: Tensor, flat: bool = True) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0).mask(False) if flat else dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    blr, _ = engine(model)
    blr.fit(normals(3, 3))
    assert torch.isfinite(blr.influence(normals(3, 3)).loo).all()
    with pytest.raises(ImproperPosteriorError):
        blr.without([0, 1, 2])
    one, _ = engine(model)
    one.fit(normals(3, 1))
    with pytest.raises(ImproperPosteriorError, match="without datum 0"):
        _ = one.influence(normals(3, 1)).loo
