# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Pyro's guides are updated in place: whatever else reads them goes on working."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive, Trace_ELBO
from pyro.infer import autoguide as auto
from torch.testing import assert_close

from pyro_blr import BLR, to_arviz
from pyro_blr.errors import DomainError
from pyro_blr.guides import (
    AutoNatural,
    AutoNaturalLowRankMultivariateNormal,
    AutoNaturalMultivariateNormal,
    AutoNaturalNormal,
)
from tests.guides.scripts import list_of_parts, list_with_point, regression, rows, subsampled

TWINS = {
    auto.AutoNormal: AutoNaturalNormal,
    auto.AutoDiagonalNormal: AutoNaturalNormal,
    auto.AutoMultivariateNormal: AutoNaturalMultivariateNormal,
    auto.AutoLowRankMultivariateNormal: AutoNaturalLowRankMultivariateNormal,
}


def fitted(guide: Any, **options: Any) -> Any:
    fit = BLR(regression, guide, **options).fit(*rows(), tol=1e-10)
    assert fit.converged
    return fit


@pytest.mark.parametrize("kind", TWINS)
def test_a_guide_of_pyro_ends_where_its_twin_does(kind):
    guide = kind(regression)
    loss = fitted(guide).losses[-1]
    medians = guide.median()
    quantiles = guide.quantiles([0.1, 0.9])
    pyro.clear_param_store()
    twin = TWINS[kind](regression)
    assert loss == pytest.approx(fitted(twin).losses[-1], abs=1e-8)
    assert_close(medians, twin.median(), atol=1e-5, rtol=0)
    assert_close(quantiles, twin.quantiles([0.1, 0.9]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", TWINS)
def test_predictive_draws_from_the_updated_guide(kind):
    guide = kind(regression)
    fitted(guide)
    X, _ = rows()
    drawn = Predictive(regression, guide=guide, num_samples=400)(X, None)
    scale = drawn["tau"].std() / 20
    assert abs(drawn["tau"].mean() - guide.median()["tau"]) < 5 * scale + 0.1


@pytest.mark.parametrize("kind", TWINS)
def test_natural_parameters_survive_the_way_into_the_guide(kind):
    guide = kind(regression)
    blr = BLR(regression, guide)
    blr.step(*rows())
    held = {b: tuple(t.detach().clone() for t in n) for b, n in blr.view.naturals().items()}
    blr.view.write(held)
    for block, natural in blr.view.naturals().items():
        assert_close(natural, held[block], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", [auto.AutoMultivariateNormal, auto.AutoLowRankMultivariateNormal])
def test_leaves_and_constraints_stay_what_they_are(kind):
    guide = kind(regression)
    guide(*rows())
    store = pyro.get_param_store()
    leaves = dict(store.named_parameters())
    constraints = dict(store._constraints)
    named = len(store._param_to_name)
    fitted(guide)
    assert {n: id(p) for n, p in store.named_parameters()} == {n: id(p) for n, p in leaves.items()}
    assert dict(store._constraints) == constraints
    assert len(store._param_to_name) == named


@pytest.mark.parametrize("kind", TWINS)
def test_a_saved_store_goes_on_where_it_was(kind, tmp_path):
    guide = kind(regression)
    loss = BLR(regression, guide).evaluate_loss(*rows())
    fitted(guide)
    end = BLR(regression, guide).evaluate_loss(*rows())
    assert end < loss - 1
    pyro.get_param_store().save(tmp_path / "store")
    state = guide.state_dict()
    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "store")
    assert BLR(regression, guide).evaluate_loss(*rows()) == pytest.approx(end, abs=1e-10)
    pyro.clear_param_store()
    other = kind(regression)
    other(*rows())
    other.load_state_dict(state)
    assert BLR(regression, other).evaluate_loss(*rows()) == pytest.approx(end, abs=1e-10)


@pytest.mark.parametrize("kind", [*TWINS, auto.AutoDelta])
def test_parameters_may_be_local_to_their_module(kind):
    with pyro.settings.context(module_local_params=True):
        guide = kind(regression)
        fitted(guide)
        assert not list(pyro.get_param_store())
        median = guide.median()
    pyro.clear_param_store()
    guide = kind(regression)
    fitted(guide)
    # Both are within 1e-6 nats of the optimum, each from a start of its own.
    assert_close(median, guide.median(), atol=1e-4, rtol=0)


def test_a_guide_in_float32():
    torch.set_default_dtype(torch.float32)
    X, y = (t.float() for t in rows())
    guide = auto.AutoNormal(regression)
    fit = BLR(regression, guide).fit(X, y, tol=1e-4)
    assert fit.converged
    assert guide.median()["w"].dtype == torch.float32
    torch.set_default_dtype(torch.float64)


def test_rows_outside_a_subsample_keep_their_parameters():
    def model(y):
        with pyro.plate("n", len(y), subsample_size=4) as index:
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[index])

    guide = auto.AutoNormal(model)
    blr = BLR(model, guide)
    y = torch.arange(12.0)
    blr.step(y)
    assert guide.locs.z.shape == (12,)
    assert int((guide.scales.z.detach() > 0.5).sum()) == 4  # the posterior's is 1 / sqrt(2)
    for _ in range(30):
        blr.step(y)
    assert_close(guide.locs.z.detach(), y / 2, atol=1e-6, rtol=0)


def test_a_subsampled_guide_has_the_full_optimum():
    pyro.set_rng_seed(1)
    guide = auto.AutoNormal(subsampled)
    blr = BLR(subsampled, guide)
    for _ in range(120):
        blr.step(*rows())
    X, y = rows()
    design = torch.cat([X, torch.ones(len(X), 1)], 1)
    precision = 4 * design.T @ design + torch.diag(torch.tensor([1.0, 1.0, 0.25]))
    mean = torch.linalg.solve(precision, 4 * design.T @ y)
    found = torch.cat([guide.median()["w"], guide.median()["b"].reshape(1)])
    assert_close(found, mean, atol=0.05, rtol=0)


def test_a_deterministic_loss_takes_no_random_number():
    guide = list_of_parts()
    blr = BLR(regression, guide)
    blr.step(*rows())
    before = torch.get_rng_state()
    loss = blr.evaluate_loss(*rows())
    assert torch.equal(torch.get_rng_state(), before)
    assert blr.evaluate_loss(*rows()) == loss


def test_nothing_is_written_outside_the_domain():
    guide = auto.AutoNormal(regression)
    blr = BLR(regression, guide)
    blr.step(*rows())
    block, natural = next(iter(blr.view.naturals().items()))
    with pytest.raises(DomainError, match="last good state"):
        blr.view.write({block: (natural[0], -natural[1])})
    assert_close(blr.view.naturals()[block], natural)


def test_parts_of_a_list_are_updated_in_place():
    guide = list_of_parts()
    fitted(guide)
    tau = pyro.param("a") / pyro.param("rate")
    assert guide.median()["w"].shape == (2,)
    assert float(tau) == pytest.approx(4.0, rel=0.5)


def test_a_point_in_a_list_is_at_the_maximum_given_the_others():
    guide = list_with_point()
    blr = BLR(regression, guide)
    for _ in range(12):
        loss = blr.step(*rows())
    tau = pyro.get_param_store()._params["AutoGuideList.1.tau"]
    for shift in (-0.05, 0.05):
        with torch.no_grad():
            tau.add_(shift)
            assert blr.evaluate_loss(*rows()) > loss
            tau.sub_(shift)


def test_a_natural_guide_is_a_part_of_a_list_too():
    guide = auto.AutoGuideList(regression)
    guide.append(AutoNatural(poutine.block(regression, hide=["tau"])))
    guide.append(auto.AutoDelta(poutine.block(regression, expose=["tau"])))
    blr = BLR(regression, guide)
    for _ in range(15):
        loss = blr.step(*rows())
    natural_list = guide.median(*rows())
    pyro.clear_param_store()
    other = list_with_point()
    blr = BLR(regression, other)
    for _ in range(15):
        other_loss = blr.step(*rows())
    # q of w has a full covariance here, and a diagonal one there.
    assert other_loss - 1 < loss <= other_loss + 1e-6
    assert_close(natural_list["w"], other.median(*rows())["w"], atol=1e-2, rtol=0)


def test_a_laplace_approximation_is_taken_at_the_maximum():
    guide = auto.AutoLaplaceApproximation(regression)
    fitted(guide)
    at_maximum = guide.laplace_approximation(*rows())
    assert_close(at_maximum.loc, guide.loc, atol=0, rtol=0)
    loss = Trace_ELBO(num_particles=200).loss(regression, at_maximum, *rows())
    pyro.clear_param_store()
    best = fitted(auto.AutoMultivariateNormal(regression)).losses[-1]
    assert loss == pytest.approx(best, abs=0.5)


def test_arviz_takes_a_fit_of_a_guide_of_pyro():
    pytest.importorskip("arviz_base")
    tree = to_arviz(fitted(auto.AutoNormal(regression)), *rows(), num_samples=20)
    assert tree["posterior"]["w"].shape == (1, 20, 2)
