# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Guides of Pyro leave out a step that chance made NaN, as guides in natural coordinates do."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer import autoguide as auto
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import NonFiniteError, SkippedStepWarning
from tests.test_skipped_steps import Flaky, sometimes

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")


def by_factor(flaky: Flaky) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(1.0))
    pyro.factor("penalty", -(z**2) * flaky())


def by_mean(flaky: Flaky) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("n", 3):
        pyro.sample("penalty", dist.Normal(z * flaky(), 1.0), obs=torch.ones(3))


def by_event(flaky: Flaky) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    mean = z * flaky() * torch.ones(2)
    pyro.sample("penalty", dist.Normal(mean, 1.0).to_event(1), obs=torch.ones(2))


def drawn(flaky: Flaky) -> None:
    """q is known by its draws: the second depends on the first."""
    loc = pyro.param("loc", torch.tensor(0.0))
    first = pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
    pyro.sample("z", dist.Normal(loc + 0.1 * first, 0.5))


GUIDES: dict[str, Callable[[Any], Any]] = {
    "AutoDelta": auto.AutoDelta,
    "AutoLaplaceApproximation": auto.AutoLaplaceApproximation,
    "drawn": lambda model: drawn,
    "AutoNormal": auto.AutoNormal,
}
every_model = pytest.mark.parametrize("model", [by_factor, by_mean, by_event])
every_guide = pytest.mark.parametrize("guide", GUIDES)


def start(model: Any, guide: str) -> BLR:
    pyro.clear_param_store()
    loss = Trace_ELBO() if guide == "drawn" else None  # a draw a step, so a call a step
    return BLR(model, GUIDES[guide](model), pyro.optim.Adam({"lr": 0.05}), loss)


def state() -> list[Tensor]:
    return [t.detach().clone() for _, t in sorted(pyro.get_param_store().named_parameters())]


@every_model
@every_guide
@pytest.mark.parametrize("is_checked", [True, False])
def test_a_step_is_left_out_and_the_next_is_taken(model: Any, guide: str, is_checked: bool) -> None:
    with pyro.validation_enabled(is_checked):
        blr = start(model, guide)
        blr.step(lambda: 1.0)
        before, steps = state(), blr.num_steps
        with pytest.warns(SkippedStepWarning, match=r"1 so far, 1 in a row.*'penalty'.*Mend"):
            loss = blr.step(sometimes(True, False, False, False, False, False))
        assert math.isnan(loss) and math.isnan(blr.info.loss)
        assert (blr.skipped, blr.num_steps) == (1, steps)
        assert all(torch.equal(a, b) for a, b in zip(state(), before, strict=True))
        assert math.isfinite(blr.step(lambda: 1.0))


@every_model
@every_guide
def test_what_is_always_nan_is_an_error_at_once(model: Any, guide: str) -> None:
    blr = start(model, guide)
    for _ in range(2):
        with pytest.raises(NonFiniteError, match=r"'penalty'.*Mend:"):
            blr.step(lambda: math.nan)
    assert blr.skipped == 0
    assert math.isfinite(blr.step(lambda: 1.0))
    with pytest.raises(NonFiniteError, match=r"'penalty'.*Mend:"):
        blr.evaluate_loss(lambda: math.nan)


@every_guide
def test_nan_at_every_seventh_call(guide: str) -> None:
    calls = 0

    def flaky() -> float:
        nonlocal calls
        calls += 1
        return math.nan if calls % 7 == 0 else 1.0

    blr = start(by_factor, guide)
    with pytest.warns(SkippedStepWarning, match="'penalty'"):
        losses = [blr.step(flaky) for _ in range(40)]
    assert 0 < blr.skipped == sum(map(math.isnan, losses)) < 30
    if guide == "AutoDelta":
        assert float(pyro.param("AutoDelta.z")) == pytest.approx(0.25, abs=1e-6)


@pytest.mark.parametrize("guide", ["AutoDelta", "drawn"])
def test_too_many_in_a_row_are_an_error(guide: str) -> None:
    blr = start(by_factor, guide)
    blr.step(lambda: 1.0)
    with pytest.warns(SkippedStepWarning):
        for _ in range(9):
            blr.step(sometimes(True, *[False] * 9))
    with pytest.raises(NonFiniteError, match=r"10 steps in a row.*'penalty'.*Mend:"):
        blr.step(sometimes(True, *[False] * 9))


@pytest.mark.parametrize("guide", ["AutoDelta", "drawn"])
def test_nan_data_are_named(guide: str) -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(math.nan))

    own: Any = auto.AutoDelta(model) if guide == "AutoDelta" else lambda: drawn(lambda: 1.0)
    with pytest.raises(NonFiniteError, match=r"'y'.*Mend"):
        BLR(model, own).step()


@pytest.mark.parametrize("guide", ["AutoDelta", "drawn"])
def test_a_gradient_that_is_nan_moves_nothing(guide: str) -> None:
    def model(flaky: Flaky) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        zero = 0 * z if flaky() != 1.0 else 1 + z**2
        pyro.factor("f", zero.sqrt())

    blr = start(model, guide)
    blr.step(lambda: 1.0)
    before = state()
    with pytest.raises(NonFiniteError, match=r"gradient.*(AutoDelta.z|loc).*Mend"):
        blr.step(lambda: 0.0)
    assert all(torch.equal(a, b) for a, b in zip(state(), before, strict=True))


@pytest.mark.parametrize("guide", ["AutoDelta", "drawn"])
def test_a_fit_goes_on(guide: str) -> None:
    blr = start(by_factor, guide)
    blr.step(lambda: 1.0)
    flaky = sometimes(True, *[False] * 40)
    with pytest.warns(SkippedStepWarning):
        fit = blr.fit(flaky, max_steps=12)
    assert math.isnan(fit.losses[0])
    assert math.isfinite(fit.losses[-1])
    assert fit.converged == (guide == "AutoDelta")
    if guide == "drawn":
        assert "Mend" in fit.reason
