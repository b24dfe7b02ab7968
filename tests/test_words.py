# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What a user reads: tables, reprs, warnings and errors say what is meant, and where."""

import math
import warnings
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import (
    ArgumentError,
    GuideError,
    MemoryLimitError,
    NoLatentError,
    SampledFactorWarning,
)
from pyro_blr.guides import (
    AutoNatural,
    AutoNaturalLowRankMultivariateNormal,
    AutoNaturalMultivariateNormal,
)

Y = torch.linspace(-1.0, 1.0, 6)

#: The elements of a vector whose precision no machine of today holds.
HUGE = 2_000_000


def exact(y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("n", len(y)):
        pyro.sample("obs", dist.Normal(w[0] + w[1] * y, 1.0), obs=y)


def sampled(y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("obs", dist.Normal(w.norm(), 1.0), obs=y[0])


def huge() -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(HUGE), 1.0).to_event(1))
    pyro.sample("total", dist.Normal(w.sum(), 1.0), obs=torch.tensor(0.0))


@pytest.fixture(autouse=True)
def _fresh() -> None:
    pyro.clear_param_store()
    pyro.set_rng_seed(0)


# --------------------------------------------------------------------------------------- explain


def test_a_sampled_factor_has_no_error_bound() -> None:
    explanation = BLR(sampled, AutoNatural(sampled), on_sampled="ignore").explain(Y)
    assert math.isnan(explanation["obs"].error)
    assert explanation["w"].error == 0.0
    rows = {line.split()[0]: line.split() for line in str(explanation).splitlines()[2:4]}
    assert rows["obs"][4] == "draws"
    assert rows["w"][4] == "0"


def test_a_guide_known_by_its_draws_has_no_error_bound_in_the_table() -> None:
    def drawn(y: Tensor) -> None:
        noise = pyro.sample("noise", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
        pyro.sample("w", dist.Normal(noise + pyro.param("l", torch.zeros(2)), 1.0).to_event(1))

    explanation = str(BLR(exact, drawn, on_sampled="ignore").explain(Y))
    assert explanation.splitlines()[2].split()[4] == "draws"


@pytest.mark.parametrize("guide", [AutoNormal, AutoDiagonalNormal])
def test_a_mean_field_guide_is_said_to_be_one_within_a_vector(guide: Any) -> None:
    explanation = BLR(exact, guide(exact)).explain(Y)
    assert any("mean field" in note and "w" in note for note in explanation.notes)
    assert "identity" not in str(explanation)
    for parameter in explanation.parameters.values():
        assert str(parameter) == f"parameter {parameter.name}: written"


# ---------------------------------------------------------------------------------------- reprs


def test_reprs_are_short_and_hold_public_numbers() -> None:
    blr = BLR(exact, AutoNatural(exact))
    assert repr(blr) == "<BLR: model exact, guide AutoNatural, 0 steps taken>"
    blr.step(Y)
    assert repr(blr) == "<BLR: model exact, guide AutoNatural, 1 step taken>"
    assert repr(blr.info).startswith("Info(loss=")
    assert "_" not in repr(blr.info)
    assert len(repr(blr.info)) < 200
    assert "after 1 step," in repr(BLR(exact, AutoNatural(exact)).fit(Y, max_steps=1))


# -------------------------------------------------------------------------------------- warnings


@pytest.mark.parametrize("method", ["step", "evaluate_loss", "fit", "explain", "messages"])
def test_a_warning_points_to_the_line_of_the_user(method: str) -> None:
    blr = BLR(sampled, AutoNatural(sampled), num_draws=2)
    limits = {"max_steps": 1} if method == "fit" else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(blr, method)(Y, **limits)
    (warning,) = [w for w in caught if w.category is SampledFactorWarning]
    assert warning.filename == __file__


def test_a_reason_that_ends_with_a_full_stop_gets_no_second_one() -> None:
    def branching(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("obs", dist.Normal(w if w > 0 else -w, 1.0), obs=y[0])

    with pytest.warns(SampledFactorWarning) as caught:
        BLR(branching, AutoNormal(branching), loss=Trace_ELBO()).step(Y)
    assert all(".." not in str(w.message).replace("...", "") for w in caught)


# ------------------------------------------------------------------------------------- arguments

NUMBERS = {
    "NumPy float32": np.float32(0.5),
    "NumPy float64": np.float64(0.5),
    "NumPy array": np.array(0.5),
    "tensor": torch.tensor(0.5),
    "parameter": torch.tensor(0.5, requires_grad=True),
}


@pytest.mark.parametrize("option", ["step_size", "temperature", "momentum", "quad_tol"])
@pytest.mark.parametrize("kind", NUMBERS)
def test_a_real_number_of_any_kind_is_one(kind: str, option: str) -> None:
    options: dict[str, Any] = {option: NUMBERS[kind]}
    blr = BLR(exact, AutoNatural(exact), **options)
    assert type(getattr(blr, option)) is float
    assert getattr(blr, option) == 0.5
    assert math.isfinite(blr.step(Y))


def test_limits_take_any_real_number_and_integer() -> None:
    blr = BLR(exact, AutoNatural(exact), num_draws=np.int64(4), check_every=torch.tensor(2))
    assert blr.fit(Y, tol=torch.tensor(1e-5), max_steps=np.int64(20)).converged


@pytest.mark.parametrize(
    "value", [torch.ones(2), np.ones(1), torch.tensor(True), np.bool_(True), 1j, torch.tensor(2.0)]
)
def test_what_is_no_number_in_range_is_still_refused(value: Any) -> None:
    with pytest.raises(ArgumentError, match="step_size"):
        BLR(exact, AutoNatural(exact), step_size=value)


@pytest.mark.parametrize("guide", [AutoNatural, AutoNormal])
def test_a_swapped_model_and_guide_are_said_to_be_so(guide: Any) -> None:
    with pytest.raises(ArgumentError, match=r"swapped.*Mend"):
        BLR(guide(exact), exact)


def test_a_keyword_that_is_neither_the_models_nor_that_of_fit_is_named() -> None:
    with pytest.raises(ArgumentError, match=r"'num_steps'.*max_steps, tol, progress"):
        BLR(exact, AutoNatural(exact)).fit(Y, num_steps=1)

    def open_model(**kwargs: Any) -> None:
        exact(kwargs["y"])

    assert BLR(open_model, AutoNatural(open_model)).fit(y=Y, anything=3).converged


def test_a_fit_that_cannot_certify_over_parameters_names_the_mend() -> None:
    def model(y: Tensor) -> None:
        m = pyro.param("m", torch.tensor(0.0))
        w = pyro.sample("w", dist.Normal(m, 1.0))
        pyro.sample("obs", dist.Normal(w, 1.0), obs=y[0])

    fit = BLR(model, AutoNatural(model)).fit(Y, max_steps=3)
    assert "['m']" in fit.reason
    assert 'params="em"' in fit.reason
    pyro.clear_param_store()
    assert BLR(model, AutoNatural(model), params="em").fit(Y).converged


# ---------------------------------------------------------------------------------- sizes of sites


def test_a_precision_within_a_vector_that_does_not_fit_is_refused_before_it_is_allocated() -> None:
    with pytest.raises(MemoryLimitError, match=r"site 'w'.*DiagonalNormal.*AutoNaturalNormal"):
        BLR(huge, AutoNatural(huge)).step()


@pytest.mark.parametrize(
    "guide", [AutoNaturalLowRankMultivariateNormal, AutoNaturalMultivariateNormal, AutoNatural]
)
def test_a_latent_without_elements_is_served_or_refused_by_name(guide: Any) -> None:
    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(0), 1.0).to_event(1))
        pyro.sample("obs", dist.Normal(z.sum(), 1.0), obs=y[0])

    blr = BLR(model, guide(model))
    if guide is AutoNaturalLowRankMultivariateNormal:
        with pytest.raises(NoLatentError, match="'z' of shape"):
            blr.step(Y)
    else:
        assert math.isfinite(blr.step(Y))


def elementwise(y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("obs", dist.Normal((w * torch.ones(2)).sum(), 1.0), obs=y[0])


@pytest.mark.parametrize("model", [exact, elementwise])
@pytest.mark.parametrize("law", ["Normal", "Delta", "drawn"])
def test_a_site_of_another_size_in_the_guide_is_named(law: str, model: Any) -> None:
    def guide(y: Tensor) -> None:
        loc = pyro.param("loc", torch.zeros(3))
        scale = pyro.param("scale", torch.ones(3), constraint=dist.constraints.positive)
        if law == "drawn":
            noise = pyro.sample("noise", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
            loc = loc + noise
        q = dist.Delta(loc) if law == "Delta" else dist.Normal(loc, scale)
        pyro.sample("w", q.to_event(1))

    with pytest.raises(GuideError, match=r"'w'.*\(3,\).*\(2,\).*Mend"):
        BLR(model, guide, on_sampled="ignore").step(Y)
