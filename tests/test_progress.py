# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The progress bar says how far a fit is: steps, -ELBO, and the gap in nats."""

import math
import re
from types import SimpleNamespace
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDelta
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import SkippedStepWarning
from pyro_blr.fit import Fit
from pyro_blr.guides import AutoNatural
from pyro_blr.info import Info
from pyro_blr.progress import Progress

Y = torch.linspace(-1.0, 2.0, 8)


def scaled(y: Tensor) -> None:
    """Two blocks that are not exact together, so that it takes some steps."""
    tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
    m = pyro.sample("m", dist.Normal(0.0, 3.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(m, tau.rsqrt()), obs=y)


def shown(capfd: pytest.CaptureFixture[str]) -> str:
    """The last state of the bar."""
    return re.split(r"[\r\n]+", capfd.readouterr().err.strip())[-1]


@pytest.mark.parametrize("guide", [AutoNatural, AutoDelta])
def test_a_bar_ends_with_the_steps_the_loss_and_the_gap_of_the_fit(
    guide: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    fit = BLR(scaled, guide(scaled)).fit(Y, progress=True)
    assert fit.converged
    text = shown(capfd)
    assert f"{fit.steps}/{fit.steps}" in text  # a fit that is done is not at 1 % of max_steps
    assert f"-ELBO {fit.losses[-1]:.4f}, gap {fit.gap:.1e} nats" in text


def test_a_gap_that_is_not_known_is_said_to_be_so(capfd: pytest.CaptureFixture[str]) -> None:
    fit = BLR(scaled, AutoNatural(scaled)).fit(Y, progress=True, max_steps=1)
    assert not fit.converged
    text = shown(capfd)
    assert "1/1" in text
    assert f"gap not known yet (residual {fit.residual:.1e} nats)" in text


def test_no_bar_is_shown_unless_it_is_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    BLR(scaled, AutoNatural(scaled)).fit(Y)
    assert capfd.readouterr().err == ""


def test_a_skipped_step_leaves_the_last_loss_that_is_a_number(
    capfd: pytest.CaptureFixture[str],
) -> None:
    calls = []

    def sometimes(y: Tensor) -> None:
        calls.append(1)
        m = pyro.sample("m", dist.Normal(0.0, 3.0))
        bad = torch.where(torch.tensor(len(calls) == 4), math.nan, 0.0)
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(m + bad, 1.0), obs=y)

    blr = BLR(sometimes, AutoNatural(sometimes))
    with pytest.warns(SkippedStepWarning):
        fit = blr.fit(Y, progress=True, tol=1e-30, max_steps=5)
    assert any(map(math.isnan, fit.losses))
    text = shown(capfd)
    assert "1 step skipped" in text
    assert "-ELBO nan" not in text


@pytest.mark.parametrize("gap", [math.inf, math.nan, 1e-9])
def test_whatever_the_numbers_are_the_bar_is_a_line(
    gap: float, capfd: pytest.CaptureFixture[str]
) -> None:
    fit = Fit(gap=gap, residual=math.nan)
    with Progress(3, True) as bar:
        bar.enter(fit, math.nan)
        bar.show(fit)
        bar.end(fit)
    text = shown(capfd)
    assert "1/1" in text
    assert ("gap not known yet" in text) == (not math.isfinite(gap))


def test_a_widget_of_a_notebook_is_full_at_the_end_too() -> None:
    fit = Fit()
    with Progress(1000, False) as bar:
        widget = SimpleNamespace(max=1000)
        bar._bar.container = SimpleNamespace(children=[None, widget, None])
        bar.enter(fit, 1.0)
        bar.end(fit)
    assert widget.max == fit.steps == bar._bar.total == 1


def test_what_no_step_has_measured_is_not_a_number() -> None:
    info = Info()
    assert math.isnan(info.loss)
    assert math.isnan(info.residual)
    assert math.isnan(info.loss_after)
    blr = BLR(scaled, AutoDelta(scaled))
    blr.step(Y)
    assert math.isfinite(blr.info.loss)
    assert math.isnan(blr.info.residual)  # a point mass has no natural parameters
