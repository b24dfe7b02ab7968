# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A step that chance made NaN is left out and counted; NaN data are an error at once."""

import math
import warnings
from collections.abc import Callable, Iterator
from itertools import cycle
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import NonFiniteError, SkippedStepWarning
from pyro_blr.guides import AutoNatural
from tests.checks import engine
from tests.state.runs import on_disk

Y = torch.linspace(-1.0, 2.0, 8)
quiet = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")
Flaky = Callable[[], float]


def sometimes(*bad: bool) -> Flaky:
    """NaN in some calls of the model: the n-th is bad if the n-th of these is, again and again."""
    calls: Iterator[bool] = cycle(bad)
    return lambda: math.nan if next(calls) else 1.0


def exact(flaky: Flaky) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    pyro.factor("penalty", -0.1 * w**2 * flaky())
    with pyro.plate("data", 8):
        pyro.sample("y", dist.Normal(w, 1.0), obs=Y)


def by_quadrature(flaky: Flaky) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", 8):
        pyro.sample("penalty", dist.Bernoulli(logits=w * Y * flaky()), obs=(Y > 0).double())


def by_draws(flaky: Flaky) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    pyro.sample("penalty", dist.Normal(w.norm() * flaky(), 1.0), obs=torch.tensor(1.0))


MODELS = [exact, by_quadrature, by_draws]
every_model = pytest.mark.parametrize("model", MODELS, ids=lambda m: m.__name__)


def state(blr: BLR) -> list[Tensor]:
    return [t.detach().clone() for n in blr.guide.naturals().values() for t in n]


@quiet
@every_model
def test_a_step_is_left_out_and_the_next_is_taken(model: Callable[[Flaky], None]) -> None:
    blr, _ = engine(model)
    blr.step(lambda: 1.0)
    before, steps = state(blr), blr.num_steps
    flaky = sometimes(True, False)
    with pytest.warns(SkippedStepWarning, match=r"1 so far, 1 in a row.*'penalty'.*Mend"):
        loss = blr.step(flaky)
    assert math.isnan(loss)
    assert math.isnan(blr.info.loss)
    assert (blr.skipped, blr.num_steps) == (1, steps)
    assert all(torch.equal(a, b) for a, b in zip(state(blr), before, strict=True))
    assert math.isfinite(blr.step(lambda: 1.0))
    assert blr.skipped == 1
    assert blr.num_steps == steps + 1


@quiet
@every_model
def test_what_is_always_nan_is_an_error_at_once(model: Callable[[Flaky], None]) -> None:
    blr, _ = engine(model)
    for _ in range(2):
        with pytest.raises(NonFiniteError, match=r"'penalty'.*Mend:"):
            blr.step(lambda: math.nan)
    assert blr.skipped == 0
    assert math.isfinite(blr.step(lambda: 1.0))


@every_model
@quiet
def test_too_many_in_a_row_are_an_error(model: Callable[[Flaky], None]) -> None:
    blr, _ = engine(model)
    blr.step(lambda: 1.0)
    flaky = sometimes(True, False)
    with pytest.warns(SkippedStepWarning):
        for _ in range(9):
            blr.step(flaky)
    with pytest.raises(NonFiniteError, match=r"10 steps in a row.*'penalty'.*Mend:"):
        blr.step(flaky)
    assert blr.skipped == 10


def test_a_step_in_between_starts_the_count_again() -> None:
    blr, _ = engine(exact)
    flaky = sometimes(True, False, False)  # a step that is left out, and one that is taken
    with pytest.warns(SkippedStepWarning):
        losses = [blr.step(flaky) for _ in range(1 + 24)]
    assert blr.skipped == sum(math.isnan(x) for x in losses) >= 12


def test_rows_that_are_drawn() -> None:
    """One row of 100 is NaN: the steps that draw it are left out."""
    y = torch.linspace(-1.0, 1.0, 100)
    y[17] = math.nan

    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 100, subsample_size=5) as index:
            pyro.factor("y", -((w - y[index]) ** 2))

    blr, guide = engine(model)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        losses = [blr.step() for _ in range(60)]
    skipped = [w for w in caught if w.category is SkippedStepWarning]
    assert 0 < blr.skipped == len(skipped) == sum(map(math.isnan, losses)) < 15
    assert math.isfinite(guide.marginal("w").mean)


def test_a_fit_goes_on() -> None:
    blr, _ = engine(exact)
    blr.step(lambda: 1.0)
    with pytest.warns(SkippedStepWarning):
        fit = blr.fit(sometimes(True, False, False), max_steps=30)
    assert fit.converged
    assert math.isnan(fit.losses[0])
    assert math.isfinite(fit.losses[-1])


def test_counts_are_part_of_the_state() -> None:
    blr, _ = engine(exact)
    blr.step(lambda: 1.0)
    flaky = sometimes(True, False)
    with pytest.warns(SkippedStepWarning):
        for _ in range(9):
            blr.step(flaky)
    saved = on_disk(blr.state_dict())
    blr = BLR(exact, AutoNatural(exact))
    blr.load_state_dict(saved)
    assert blr.skipped == 9
    blr.evaluate_loss(lambda: 1.0)
    with pytest.raises(NonFiniteError, match=r"10 steps in a row"):
        blr.step(flaky)


def test_other_errors_are_not_skipped() -> None:
    def model(flag: Any) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.factor("f", -(w**2) * flag())

    def fails() -> float:
        raise ZeroDivisionError

    blr, _ = engine(model)
    with pytest.raises(ZeroDivisionError):
        blr.step(fails)
