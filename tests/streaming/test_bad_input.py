# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What cannot be added, forgotten or merged is refused with the mend, and q stays as it was."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import (
    AutoDelta,
    AutoIAFNormal,
    AutoLowRankMultivariateNormal,
    AutoNormal,
)
from torch import Tensor

from pyro_blr import BLR, Parts
from pyro_blr.errors import (
    ArgumentError,
    BLRError,
    DiscreteLatentError,
    GuideError,
    ImproperPosteriorError,
    NonFiniteError,
    ParameterError,
    SubsampleError,
)
from pyro_blr.guides import AutoNaturalLowRankMultivariateNormal
from tests.streaming.models import (
    Case,
    binary,
    data,
    difference,
    engine,
    fitted,
    is_as_before,
    naturals,
)

CASE = data()["joint_regression"]
X, Y = CASE.rows(slice(4, 8))
BAD_Y, BAD_X = Y.clone(), X.clone()
BAD_Y[1], BAD_X[0, 1] = math.nan, math.inf


@pytest.fixture
def blr() -> BLR:
    """An engine that knows the first four rows."""
    return fitted(CASE, slice(0, 4))


def refused(blr: BLR, error: type[BLRError], match: str, call: Callable[[], Any]) -> None:
    """A call raises a typed error with a mend, and leaves q and the count of steps alone."""
    before, steps = naturals(blr), blr.num_steps
    with pytest.raises(error, match=match) as raised:
        call()
    assert "Mend:" in str(raised.value)
    assert is_as_before(blr, before)
    assert blr.num_steps == steps


@pytest.mark.parametrize("args", [(X, BAD_Y), (BAD_X, Y)], ids=["y", "X"])
@pytest.mark.parametrize("method", ["update", "forget"])
def test_data_that_are_not_finite(blr: BLR, method: str, args: tuple[Tensor, Tensor]) -> None:
    refused(blr, NonFiniteError, "'y'", lambda: getattr(blr, method)(*args))


def test_data_that_are_not_finite_where_steps_are_taken() -> None:
    case = binary()
    blr = fitted(case, slice(0, 40))
    wrong = case.data[0][40:].clone()
    wrong[3, 1] = math.nan
    refused(blr, NonFiniteError, "'y'", lambda: blr.update(wrong, case.data[1][40:]))
    blr.update(*case.rows(slice(40, 80)))


def test_first_data_that_are_not_finite() -> None:
    for case in (CASE, binary(8)):
        blr = engine(case.model)
        with pytest.raises(NonFiniteError):
            blr.update(X[:, :2], BAD_Y)
        blr.update(*case.data)  # of another size
        assert difference(blr, fitted(case)) < 1e-3


@pytest.mark.parametrize("method", ["update", "forget"])
def test_no_data(blr: BLR, method: str) -> None:
    refused(blr, SubsampleError, "no elements", lambda: getattr(blr, method)(X[:0], Y[:0]))
    refused(blr, ArgumentError, "does not fit", lambda: getattr(blr, method)())


def test_another_number_of_covariates(blr: BLR) -> None:
    refused(blr, GuideError, "'w' has the shape", lambda: blr.update(X[:, :2], Y))


def test_forgetting_what_was_never_added(blr: BLR) -> None:
    refused(blr, ImproperPosteriorError, "never added", lambda: blr.forget(9 * X, 9 * Y))
    blr.forget(*CASE.rows(slice(0, 4)))
    twice = CASE.rows(slice(0, 4))
    refused(blr, ImproperPosteriorError, "second time", lambda: blr.forget(*twice))


def test_nothing_was_added() -> None:
    with pytest.raises(GuideError, match=r"no posterior.*nothing to forget.*Mend"):
        engine(CASE.model).forget(X, Y)


def test_fits_that_are_none(blr: BLR) -> None:
    other = fitted(CASE, slice(4, 8))
    refused(blr, ArgumentError, "same fit .* twice", lambda: blr.merge(blr))
    refused(blr, ArgumentError, "same fit .* twice", lambda: blr.merge([other, blr.guide]))
    refused(blr, ArgumentError, "same fit .* twice", lambda: blr.merge([other, other]))
    refused(blr, ArgumentError, "no fit to merge", lambda: blr.merge([]))
    refused(blr, ArgumentError, "int is no fit", lambda: blr.merge([3]))
    refused(blr, ArgumentError, "AutoDelta is no fit", lambda: blr.merge(AutoDelta(CASE.model)))
    refused(blr, GuideError, "nothing to merge", lambda: blr.merge(engine(CASE.model)))
    unfitted = engine(CASE.model)
    unfitted.guide(X, Y)
    refused(blr, GuideError, "holds no posterior", lambda: blr.merge(unfitted))


def test_guides_of_pyro_that_share_parameters() -> None:
    """Pyro's store has one tensor of each name, so that the last fit would be counted twice."""
    first, second = (BLR(CASE.model, AutoNormal(CASE.model)) for _ in range(2))
    first.fit(*CASE.rows(slice(0, 4)))
    second.fit(X, Y)
    refused(second, ArgumentError, "same parameters.*last is in both", lambda: second.merge(first))


def test_several_at_once_are_not_taken_back() -> None:
    blr = engine(CASE.model)
    done = [blr.update(*CASE.rows(slice(a, a + 4))) for a in (0, 4)]
    refused(blr, ArgumentError, "several were given", lambda: blr.forget(*done))
    refused(blr, ArgumentError, "several were given", lambda: blr.forget(done))


def test_a_plate_is_one_name(blr: BLR) -> None:
    for plate in (["data"], 3, ("data", "rows")):
        refused(blr, ArgumentError, "name of one plate", lambda p=plate: blr.update(X, Y, plate=p))


def test_fits_of_other_models(blr: BLR) -> None:
    wide = Case(CASE.model, (torch.cat([X, X], 1), Y))
    refused(blr, GuideError, "'tau' was not saved", lambda: blr.merge(fitted(data()["regression"])))
    refused(blr, GuideError, r"shape \[6\]", lambda: blr.merge(fitted(wide)))
    apart = fitted(CASE, slice(4, 8), blocks="site")
    refused(blr, GuideError, "other sites", lambda: blr.merge(apart))


def test_a_merge_whose_prior_is_not_known() -> None:
    blr, other = fitted(CASE, slice(0, 4)), fitted(CASE, slice(4, 8))
    blr._fit_call = None  # as after a resumed run
    refused(blr, ArgumentError, "prior.* is not known", lambda: blr.merge(other))
    blr.merge(other, X, Y)
    assert difference(blr, fitted(CASE)) < 1e-12


def test_a_sum_of_fits_that_know_less_than_their_prior() -> None:
    def model(y: Tensor, scale: float) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, scale))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 10.0), obs=y)

    blr, other = engine(model), engine(model)
    blr.fit(Y, 5.0)
    other.fit(Y, 5.0)
    refused(blr, ImproperPosteriorError, "'mu'.*same model", lambda: blr.merge(other, Y, 0.1))


def test_fits_with_another_prior() -> None:
    def model(y: Tensor, scale: float, size: int | None = None) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, scale))
        with pyro.plate("data", size or len(y), subsample=torch.arange(len(y))):
            pyro.sample("y", dist.Normal(mu, 10.0), obs=y)

    blr, wide, part = (engine(model) for _ in range(3))
    blr.fit(Y[:2], 5.0)
    wide.fit(Y[2:], 5.5)
    refused(blr, ArgumentError, "another prior of 'mu'.*Mend", lambda: blr.merge([wide]))
    part.fit(Y[2:3], 5.0, 2, max_steps=2)  # a minibatch, whose prior is the same
    blr.merge([part])
    blr.merge([wide.state_dict()])  # of which no prior is known


def test_fits_at_another_temperature(blr: BLR) -> None:
    warm = fitted(CASE, slice(4, 8), temperature=2.0)
    refused(blr, ArgumentError, "at temperature 2.*at 1: .*Mend", lambda: blr.merge([warm]))
    refused(blr, ArgumentError, "at temperature 2", lambda: blr.merge(warm.state_dict()))
    other = fitted(CASE, slice(0, 4), temperature=2)
    other.merge([warm.state_dict()])
    assert difference(other, fitted(CASE, temperature=2.0)) < 1e-12


def test_a_posterior_that_was_loaded_at_another_temperature() -> None:
    warm, cold = fitted(CASE, slice(4, 8), temperature=2.0), engine(CASE.model)
    cold.load_state_dict(warm.state_dict())
    for method in (cold.update, cold.forget):
        with pytest.raises(ArgumentError, match=r"loaded is at temperature 2.*temperature=2\)"):
            method(X, Y)
    cold.fit(*CASE.data)  # at its own
    cold.forget(X, Y)
    assert difference(cold, fitted(CASE, slice(0, 4))) < 1e-12


@pytest.mark.parametrize("guide", [AutoDelta, AutoIAFNormal])
def test_guides_that_are_known_by_their_draws(guide: Any) -> None:
    blr = BLR(CASE.model, guide(CASE.model), on_sampled="ignore")
    for call in (blr.update, lambda *a: blr.merge(fitted(CASE), *a)):
        with pytest.raises(GuideError, match=r"no natural parameters.*Mend: use AutoNatural"):
            call(X, Y)


@pytest.mark.parametrize(
    "guide", [AutoLowRankMultivariateNormal, AutoNaturalLowRankMultivariateNormal]
)
def test_guides_in_other_coordinates(guide: Any) -> None:
    case = data()["no_plate"]
    blr = BLR(case.model, guide(case.model), on_sampled="ignore")
    with pytest.raises(GuideError, match=r"no natural ones.*no update.*Mend: use AutoNatural"):
        blr.update(*case.data)


def test_parameters_that_may_move() -> None:
    def model(y: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, scale), obs=y)

    with pytest.raises(ParameterError, match=r"\['scale'\], which may move.*Mend: .*substitute"):
        engine(model).update(Y)
    held = poutine.substitute(model, data={"scale": torch.tensor(0.5)})
    blr, everything = engine(held), engine(held)
    blr.update(Y[:2])
    blr.update(Y[2:])
    everything.fit(Y)
    assert difference(blr, everything) < 1e-12


def test_minibatches_of_a_larger_plate() -> None:
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("data", len(y), subsample_size=2) as index:
            pyro.sample("y", dist.Normal(mu, 0.5), obs=y[index])

    with pytest.raises(SubsampleError, match="counts each row once"):
        engine(model).update(Y)


def test_terms_of_which_it_is_not_known_whether_they_are_data() -> None:
    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        pyro.factor("soft", -(mu**2))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, 0.5), obs=y)

    blr, everything = engine(model), engine(model)
    with pytest.raises(ArgumentError, match=r"\['soft'\] are in no plate.*plate='data'"):
        blr.update(Y)
    for y in (Y[:2], Y[2:]):
        blr.update(y, plate="data")
    everything.fit(Y)
    assert difference(blr, everything) < 1e-12  # the term is counted once
    with pytest.raises(ArgumentError, match=r"no plate 'rows'.*plate= one of"):
        blr.update(Y, plate="rows")


def test_data_in_parts() -> None:
    parts = Parts([CASE.rows(slice(0, 4)), CASE.rows(slice(4, 8))])
    blr = engine(CASE.model)
    with pytest.raises(ArgumentError, match="all data in one place"):
        blr.update(parts)
    blr.fit(parts)
    refused(blr, ArgumentError, "forget needs all data in one place", lambda: blr.forget(parts))
    blr.forget(*CASE.rows(slice(4, 8)))  # one part by itself
    assert difference(blr, fitted(CASE, slice(0, 4))) < 1e-12


def test_no_observed_site() -> None:
    def model() -> None:
        pyro.sample("mu", dist.Normal(0.0, 2.0))

    with pytest.raises(ArgumentError, match="no observed site"):
        engine(model).update()


def test_discrete_latents_that_all_data_share() -> None:
    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Categorical(torch.ones(2)))
        mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu[z], 0.5), obs=y)

    with pytest.raises(DiscreteLatentError, match=r"\['z'\]"):
        engine(model).update(Y)


@pytest.mark.parametrize("limit", [{"max_steps": 0}, {"tol": -1.0}])
def test_limits(blr: BLR, limit: dict[str, Any]) -> None:
    with pytest.raises(ArgumentError):
        blr.update(X, Y, **limit)


def test_a_model_with_an_argument_of_the_same_name() -> None:
    def model(y: Tensor, plate: str) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate(plate, len(y)):
            pyro.sample("y", dist.Normal(mu, 0.5), obs=y)

    with pytest.raises(ArgumentError, match=r"'plate', which BLR.update takes"):
        engine(model).update(Y, "data")
    with pytest.raises(ArgumentError, match="no such argument"):
        engine(CASE.model).update(X, Y, step=3)
