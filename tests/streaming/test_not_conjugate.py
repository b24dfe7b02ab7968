# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Where messages depend on q, steps end at the optimum under the earlier posterior."""

import pickle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import ArgumentError, GuideError, NotConjugatedError
from pyro_blr.families import Natural
from tests.streaming.models import (
    Case,
    binary,
    difference,
    engine,
    fitted,
    is_as_before,
    mixture,
    naturals,
)


def clusters(count: int = 60) -> Tensor:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(count, generator=g, dtype=torch.float64)
    return x + torch.where(torch.arange(count) % 3 == 0, 2.5, -2.5)


def divergence(left: BLR, right: BLR) -> float:
    """KL(left, right) in nats."""
    ours, theirs = left.view.naturals(), right.view.naturals()
    pairs = zip(ours.items(), theirs.values(), strict=True)
    return sum(float(b.family.kl(n, m).detach().sum()) for (b, n), m in pairs)


def stream(case: Case, size: int, **limits: Any) -> BLR:
    blr = engine(case.model)
    for start in range(0, case.count, size):
        limit = limits if start else {}
        blr.update(*case.rows(slice(start, start + size)), **limit)
    return blr


def test_the_first_update_is_a_fit() -> None:
    case = binary()
    pyro.set_rng_seed(1)  # q starts at medians of draws
    blr = engine(case.model)
    done = blr.update(*case.data)
    pyro.set_rng_seed(1)
    everything = engine(case.model)
    fit = everything.fit(*case.data)
    assert difference(blr, everything) == 0.0
    assert (done.steps, done.converged, done.gap) == (fit.steps, fit.converged, fit.gap)


def test_a_streamed_logistic_regression_is_near_the_fit() -> None:
    case = binary()
    everything = fitted(case)
    two, many = stream(case, 40), stream(case, 10)
    # In nats, and in standard deviations of the fit: the price of a Gaussian for each batch.
    assert divergence(two, everything) < 0.05
    assert divergence(many, everything) < 0.2
    ours, theirs = (b.guide.marginal("w") for b in (many, everything))
    spread = theirs.covariance_matrix.diagonal().sqrt()
    assert float(((ours.mean - theirs.mean) / spread).abs().max()) < 0.5
    # A single natural step for each batch is cheaper, and further away.
    assert divergence(many, everything) < divergence(stream(case, 10, max_steps=1), everything)


def test_an_update_obeys_its_fixed_point() -> None:
    """natural = natural before + messages of the data at q, block by block."""
    case = binary()
    blr = engine(case.model)
    blr.update(*case.rows(slice(0, 40)))
    before = naturals(blr)
    done = blr.update(*case.rows(slice(40, 80)), tol=1e-12)
    assert done.converged
    new = blr.messages(*case.rows(slice(40, 80)))
    prior = (torch.zeros(3), -0.125 * torch.eye(3))
    for name, natural in naturals(blr).items():
        for n, old, m, p in zip(natural, before[name], new[name], prior, strict=True):
            assert torch.allclose(n, old + m - p, rtol=0, atol=1e-5)


def test_a_single_step_is_that_of_bayesian_online_natural_gradients() -> None:
    """natural <- natural before + messages of the data at q before."""
    case = binary()
    blr = engine(case.model, step_size=1.0)
    blr.update(*case.rows(slice(0, 76)))
    before, batch = naturals(blr), case.rows(slice(76, 80))
    at_old, prior = blr.messages(*batch), (torch.zeros(3), -0.125 * torch.eye(3))
    assert blr.update(*batch, max_steps=1).steps == 1
    for name, natural in naturals(blr).items():
        for n, old, m, p in zip(natural, before[name], at_old[name], prior, strict=True):
            assert torch.allclose(n, old + m - p, rtol=1e-10, atol=1e-10)


def near(left: dict[str, Natural], right: dict[str, Natural], share: float) -> bool:
    """Whether natural parameters agree, as a share of the largest of each tensor."""
    pairs = (p for n in left for p in zip(left[n], right[n], strict=True))
    return all(float((a - b).abs().max() / b.abs().max()) < share for a, b in pairs)


def test_what_an_update_added_is_taken_back() -> None:
    case = binary()
    blr = engine(case.model)
    first = blr.update(*case.rows(slice(0, 60)))
    before = naturals(blr)
    last = blr.update(*case.rows(slice(60, 80)))
    taken = blr.forget(pickle.loads(pickle.dumps(last)))
    assert (taken.is_exact, taken.converged, taken.loss) == (False, False, None)
    assert "in its light" in taken.reason
    assert near(naturals(blr), before, 1e-13)
    again = blr.forget(taken)  # which takes back that it was taken back
    blr.forget(again)
    blr.forget(first)
    linear, square = naturals(blr)["w"]  # the prior's
    assert float(linear.abs().max()) < 1e-13
    assert torch.allclose(square, -0.125 * torch.eye(3), rtol=1e-12)


def test_taking_back_an_earlier_batch_is_near_the_fit_without_it() -> None:
    case = binary()
    blr = engine(case.model)
    done = [blr.update(*case.rows(slice(a, a + 20))) for a in range(0, 80, 20)]
    without = fitted(case, slice(20, 80))
    before = divergence(blr, without)
    blr.forget(done[0])
    assert divergence(blr, without) < min(0.1, 0.1 * before)


def test_data_whose_messages_depend_on_q_are_not_forgotten_without_what_they_added() -> None:
    case = binary()
    blr = engine(case.model)
    blr.update(*case.data)
    before = naturals(blr)
    with pytest.raises(NotConjugatedError, match=r"\['y'\] depend on q.*Mend: blr.forget\(done\)"):
        blr.forget(*case.rows(slice(0, 20)))
    assert is_as_before(blr, before)


def test_a_mixture_in_batches() -> None:
    x = clusters()
    everything = engine(mixture)
    everything.fit(x)
    blr = engine(mixture)
    for batch in x.tensor_split(3):
        assert blr.update(batch).converged
    assert divergence(blr, everything) < 0.01
    before = naturals(blr)
    blr.forget(blr.update(x[:9]))
    assert near(naturals(blr), before, 1e-13)


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal])
def test_guides_of_pyro_that_have_natural_coordinates(guide: Any) -> None:
    case = binary()
    blr, everything = (BLR(case.model, guide(case.model)) for _ in range(2))
    for index in (slice(0, 40), slice(40, 80)):
        assert blr.update(*case.rows(index)).converged
    everything_guide = everything.guide
    everything.fit(*case.data)
    ours, theirs = (g.quantiles([0.5])["w"] for g in (blr.guide, everything_guide))
    assert torch.allclose(ours, theirs, atol=0.3)
    before = naturals(blr)
    blr.forget(blr.update(*case.rows(slice(0, 10))))
    assert near(naturals(blr), before, 1e-10)


def test_a_guide_of_pyro_that_was_run_before_may_be_a_posterior() -> None:
    case = binary()
    guide = AutoNormal(case.model)
    guide(*case.data)
    blr = BLR(case.model, guide)
    with pytest.raises(GuideError, match=r"AutoNormal.*not known.*Mend: blr.fit"):
        blr.update(*case.rows(slice(0, 40)))
    blr.fit(*case.rows(slice(0, 40)))
    assert blr.update(*case.rows(slice(40, 80))).converged


def test_sampled_factors() -> None:
    def model(X: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(torch.tanh(X @ w).cumsum(0), 5.0), obs=y)

    X, y = binary(20).data
    blr = engine(model, on_sampled="ignore", num_draws=64)
    blr.update(X[:10], y[:10], max_steps=5)
    before = naturals(blr)
    done = blr.update(X[10:], y[10:], max_steps=5)
    assert not done.is_exact
    assert not is_as_before(blr, before)
    blr.forget(done)
    assert near(naturals(blr), before, 1e-13)


def test_a_prior_that_depends_on_q_is_not_counted_once() -> None:
    def model(y: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(torch.tensor(2.0), 1.0))
        mu = pyro.sample("mu", dist.Normal(0.0, tau.rsqrt()))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    first, second = (engine(model, blocks="site") for _ in range(2))
    x = clusters(10)
    first.update(x[:5])
    second.update(x[5:])
    before = naturals(first)
    with pytest.raises(GuideError, match=r"prior of 'mu'.*Mend: a conjugate prior"):
        first.merge(second)
    assert is_as_before(first, before)


def test_merged_logistic_regressions_are_near_the_fit() -> None:
    case = binary()
    first, second = (fitted(case, slice(a, a + 40)) for a in (0, 40))
    done = first.merge(second)
    assert not done.is_exact
    assert divergence(first, fitted(case)) < 0.05


@pytest.mark.parametrize("kind", [AutoNormal, AutoMultivariateNormal])
def test_saved_fits_of_a_guide_of_pyro_are_merged(kind: Any) -> None:
    """Their states hold parameters of the guide, and no natural ones."""
    case, states, fits = binary(), [], []
    for start in (0, 40):
        pyro.clear_param_store()
        blr = BLR(case.model, kind(case.model))
        blr.fit(*case.rows(slice(start, start + 40)))
        states.append(blr.state_dict())
        fits.append([t.clone() for n in blr.view.naturals().values() for t in n])
    pyro.clear_param_store()
    merged = BLR(case.model, kind(case.model))
    merged.merge(states, *case.rows(slice(0, 1)))
    with pytest.raises(ArgumentError, match="no fit with natural parameters"):
        engine(case.model).merge(states, *case.data)
    (found,) = merged.view.naturals().values()
    w = torch.full((3,), -0.5 / 2.0**2, dtype=torch.float64)
    prior = (0.0 * w, w if found[1].dim() == 1 else w.diag())
    for ours, one, two, counted_twice in zip(found, *fits, prior, strict=True):
        torch.testing.assert_close(ours, one + two - counted_twice, rtol=1e-10, atol=1e-10)


def test_first_data_that_are_not_told_apart_from_their_prior() -> None:
    def model(y: Tensor) -> None:
        scale = pyro.sample("scale", dist.HalfCauchy(torch.tensor(1.0)))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(0.0, scale), obs=y)

    blr, x = engine(model), clusters(10)
    first, second = blr.update(x[:5]), blr.update(x[5:])
    assert first.messages == {}
    with pytest.raises(GuideError, match="not told apart from their prior"):
        blr.forget(first)
    assert second.messages
    blr.forget(second)
