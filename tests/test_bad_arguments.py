# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Wrong arguments of `BLR`, `fit` and the guide, and factors that fall back to draws."""

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import RenyiELBO, ReweightedWakeSleep, Trace_ELBO
from torch import Tensor

from pyro_blr import BLR, families
from pyro_blr.errors import (
    ArgumentError,
    BLRError,
    ControlFlowError,
    DomainError,
    GuideError,
    NonFiniteError,
    SampledFactorError,
    SampledFactorWarning,
)
from pyro_blr.guides import AutoNatural
from tests.bad_input_models import X, Y, by_draws, exact
from tests.checks import engine

quiet = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")

# ------------------------------------------------------------------------------- wrong arguments


def _guide() -> AutoNatural:
    return AutoNatural(exact)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "model is None": (lambda: BLR(None, _guide()), "model"),
    "guide is None": (lambda: BLR(exact, None), "guide"),
    "guide is the model's class": (lambda: BLR(exact, AutoNatural), "guide|AutoNatural"),
    "torch optimizer": (
        lambda: BLR(exact, _guide(), torch.optim.Adam([torch.zeros(1, requires_grad=True)])),
        "PyroOptim|pyro.optim",
    ),
    "optim is a number": (lambda: BLR(exact, _guide(), 0.1), "optim"),
    "RenyiELBO": (lambda: BLR(exact, _guide(), loss=RenyiELBO()), "Trace_ELBO"),
    "ReweightedWakeSleep": (lambda: BLR(exact, _guide(), loss=ReweightedWakeSleep()), "Trace_ELBO"),
    "loss is a function": (
        lambda: BLR(exact, _guide(), loss=lambda model, guide, *args: 0.0),
        "Trace_ELBO",
    ),
    "loss is a class": (lambda: BLR(exact, _guide(), loss=Trace_ELBO), "Trace_ELBO"),
    "step_size negative": (lambda: BLR(exact, _guide(), step_size=-0.1), "step_size"),
    "step_size zero": (lambda: BLR(exact, _guide(), step_size=0.0), "step_size"),
    "step_size above one": (lambda: BLR(exact, _guide(), step_size=1.5), "step_size"),
    "step_size NaN": (lambda: BLR(exact, _guide(), step_size=math.nan), "step_size"),
    "step_size a word": (lambda: BLR(exact, _guide(), step_size="fast"), "step_size"),
    "step_size a bool": (lambda: BLR(exact, _guide(), step_size=None), "step_size"),
    "blocks a word": (lambda: BLR(exact, _guide(), blocks="all"), "blocks"),
    "on_sampled a word": (lambda: BLR(exact, _guide(), on_sampled="explode"), "on_sampled"),
    "check_every zero": (lambda: BLR(exact, _guide(), check_every=0), "check_every"),
    "check_every a word": (lambda: BLR(exact, _guide(), check_every="often"), "check_every"),
    "params a word": (lambda: BLR(exact, _guide(), params="adam"), "params"),
    "params None": (lambda: BLR(exact, _guide(), params=None), "params"),
    "temperature zero": (lambda: BLR(exact, _guide(), temperature=0.0), "temperature"),
    "temperature negative": (lambda: BLR(exact, _guide(), temperature=-1.0), "temperature"),
    "temperature NaN": (lambda: BLR(exact, _guide(), temperature=math.nan), "temperature"),
    "temperature infinite": (lambda: BLR(exact, _guide(), temperature=math.inf), "temperature"),
    "temperature a bool": (lambda: BLR(exact, _guide(), temperature=True), "temperature"),
    "momentum one": (lambda: BLR(exact, _guide(), momentum=1.0), "momentum"),
    "momentum negative": (lambda: BLR(exact, _guide(), momentum=-0.1), "momentum"),
    "momentum NaN": (lambda: BLR(exact, _guide(), momentum=math.nan), "momentum"),
    "momentum a word": (lambda: BLR(exact, _guide(), momentum="heavy"), "momentum"),
    "max_steps zero": (lambda: BLR(exact, _guide()).fit(X, Y, max_steps=0), "max_steps"),
    "max_steps a float": (lambda: BLR(exact, _guide()).fit(X, Y, max_steps=2.5), "max_steps"),
    "tol negative": (lambda: BLR(exact, _guide()).fit(X, Y, tol=-1.0), "tol"),
    "tol NaN": (lambda: BLR(exact, _guide()).fit(X, Y, tol=math.nan), "tol"),
    "step_size of a schedule": (
        lambda: BLR(exact, _guide(), step_size=lambda t: 2.0).step(X, Y),
        "step_size",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_argument(case: str) -> None:
    make, words = WRONG[case]
    with pytest.raises(ArgumentError, match=words):
        make()


WRONG_GUIDE: dict[str, tuple[Callable[[], Any], str]] = {
    "family of an unknown site": (
        lambda: AutoNatural(exact, families={"sigma": families.Gamma})(X, Y),
        "sigma",
    ),
    "family of another support": (
        lambda: AutoNatural(exact, families={"w": families.Gamma})(X, Y),
        r"\bw\b",
    ),
    "family that is no family": (
        lambda: AutoNatural(exact, families={"tau": "Gamma!"})(X, Y),
        "tau|Gamma!",
    ),
    "start of an unknown site": (
        lambda: _set({"sigma": dist.Normal(0.0, 1.0)}),
        "sigma",
    ),
    "start of another family": (lambda: _set({"tau": dist.Beta(2.0, 1.0)}), "tau"),
    "start of another shape": (lambda: _set({"w": dist.Normal(torch.zeros(3), 1.0)}), r"\bw\b"),
    "start outside the cone": (
        lambda: _set({"w": (torch.tensor(0.0), torch.tensor(0.5))}),
        r"\bw\b",
    ),
    "start that is NaN": (
        lambda: _set({"w": (torch.tensor(math.nan), torch.tensor(-0.5))}),
        r"\bw\b",
    ),
    "start with a missing part": (lambda: _set({"tau": (torch.tensor(1.0),)}), "tau"),
    "marginal of an unknown site": (lambda: _marginal("sigma"), "sigma"),
}


def _set(start: dict[str, Any]) -> None:
    blr, _ = engine(exact, start)
    blr.evaluate_loss(X, Y)


def _marginal(site: str) -> Any:
    blr, guide = engine(exact)
    blr.step(X, Y)
    return guide.marginal(site)


@pytest.mark.parametrize("case", WRONG_GUIDE)
def test_wrong_argument_of_the_guide(case: str) -> None:
    make, words = WRONG_GUIDE[case]
    with pytest.raises((ArgumentError, GuideError, DomainError), match=words) as caught:
        make()
    assert "Mend:" in str(caught.value)


def _with_tol(x: Tensor, y: Tensor, tol: float = 1.0) -> None:
    exact(x, tol * y)


def _with_max_steps(x: Tensor, y: Tensor, max_steps: float = 1.0) -> None:
    exact(x, max_steps * y)


def _with_progress(x: Tensor, y: Tensor, progress: float = 1.0) -> None:
    exact(x, progress * y)


@pytest.mark.parametrize("name", ["tol", "max_steps", "progress"])
def test_model_keyword_of_the_name_of_an_option_of_fit(name: str) -> None:
    """`fit(tol=...)` would never reach the model: it must say so, and how to bind it."""
    model = {"tol": _with_tol, "max_steps": _with_max_steps, "progress": _with_progress}[name]
    blr, _ = engine(model)
    with pytest.raises(ArgumentError, match=name) as caught:
        blr.fit(X, Y, max_steps=3)
    assert "Mend:" in str(caught.value)
    blr, _ = engine(functools.partial(model, **{name: 2.0}))
    assert math.isfinite(blr.step(X, Y))


def test_every_error_is_a_blr_error() -> None:
    for kind in (ArgumentError, ControlFlowError, DomainError, GuideError, NonFiniteError):
        assert issubclass(kind, BLRError)


# --------------------------------------------------------------- what falls back to draws says so


def test_sampled_factor_warns_once_per_site() -> None:
    blr, _ = engine(by_draws)
    with pytest.warns(SampledFactorWarning, match="y_obs") as caught:
        blr.step(X, Y)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        blr.step(X, Y)
        blr.evaluate_loss(X, Y)
        blr.step(X[:5], Y[:5])  # a miss of the cache is no new discovery


def test_sampled_factor_as_an_error() -> None:
    blr, _ = engine(by_draws, on_sampled="error")
    with pytest.raises(SampledFactorError, match="y_obs") as caught:
        blr.step(X, Y)
    assert "Mend:" in str(caught.value)
    blr, _ = engine(exact, on_sampled="error")
    assert math.isfinite(blr.step(X, Y))


@quiet
@pytest.mark.parametrize("operation", ["logdet", "cummax", "atan2", "logsumexp"])
def test_explanation_names_the_operation_that_made_it_sampled(operation: str) -> None:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        loc = {
            "logdet": lambda: torch.logdet(torch.eye(2) + torch.outer(w, w)),
            "cummax": lambda: w.cummax(0).values.sum(),
            "atan2": lambda: torch.atan2(w[0], w[1]),
            "logsumexp": lambda: torch.logsumexp(w, 0),
        }[operation]()
        pyro.sample("y_obs", dist.Normal(loc, 1.0), obs=torch.tensor(0.3))

    (factor,) = [f for f in engine(model)[0].explain().factors if f.site == "y_obs"]
    assert factor.tier in ("quadrature", "sampled")  # two jointly Gaussian scalars may be either
    assert factor.tier == "quadrature" or operation in factor.reason


@quiet
def test_explanation_of_a_sampled_factor() -> None:
    blr, _ = engine(by_draws)
    report = blr.explain(X, Y)
    (factor,) = [f for f in report.factors if f.site == "y_obs"]
    assert factor.tier == "sampled"
    assert not factor.conjugate
    assert set(factor.latents) == {"w", "tau"}
    assert factor.reason
    assert "y_obs" in str(report)
    assert "sampled" in str(report)
