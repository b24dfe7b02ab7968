# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A mistake of the user is a typed error that names the site and prints the mend.

After every error the guide stands where it stood, and the engine can go on.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_blr import BLR
from pyro_blr.errors import (
    ArgumentError,
    BLRError,
    ControlFlowError,
    DiscreteLatentError,
    GuideError,
    ImproperPosteriorError,
    NoLatentError,
    NonFiniteError,
    PlateSizeError,
    SupportError,
)
from pyro_blr.guides import AutoNatural
from tests.bad_input_models import X, Y, by_draws, by_quadrature, exact, randn
from tests.checks import engine


def natural_state(guide: Any) -> list[Tensor]:
    """What the guide believes, site by site."""
    quantiles = guide.quantiles([0.2, 0.5, 0.8])
    return [quantiles[site].detach().clone() for site in sorted(quantiles)]


@contextmanager
def guide_keeps_its_state(guide: Any) -> Iterator[None]:
    before = natural_state(guide)
    yield
    for a, b in zip(natural_state(guide), before, strict=True):
        assert torch.equal(a, b), "the guide moved"


every_tier = pytest.mark.parametrize("model", [exact, by_quadrature, by_draws])
quiet = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")

# --------------------------------------------------------------------- NaN and infinity in the data


@quiet
@pytest.mark.parametrize("where", ["the observations", "the predictors"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@every_tier
def test_datum_that_is_not_finite(model: Callable[..., None], bad: float, where: str) -> None:
    x, y = X.clone(), Y.clone()
    blr, guide = engine(model)
    blr.step(x, y)
    (y if where == "the observations" else x)[5] = bad
    with guide_keeps_its_state(guide), pytest.raises(NonFiniteError, match="y_obs"):
        blr.step(x, y)
    with pytest.raises(NonFiniteError, match="y_obs"):
        blr.evaluate_loss(x, y)
    assert math.isfinite(blr.step(X, Y))


@quiet
@every_tier
def test_datum_that_is_not_finite_in_the_first_step(model: Callable[..., None]) -> None:
    blr, guide = engine(model)
    bad = Y.clone()
    bad[0] = math.nan
    with pytest.raises(NonFiniteError, match="y_obs"):
        blr.step(X, bad)
    assert math.isfinite(blr.step(X, Y))
    assert all(torch.isfinite(t).all() for t in natural_state(guide))


@pytest.mark.parametrize("place", ["hyperparameter", "factor", "scale"])
def test_other_constants_that_are_not_finite(place: str) -> None:
    bad = {place: torch.tensor(math.nan)}

    def model() -> None:
        w = pyro.sample("w", dist.Normal(bad.get("hyperparameter", torch.zeros(())), 1.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        pyro.factor("extra", w * bad.get("factor", 1.0))
        with pyro.plate("data", 12):
            pyro.sample("y_obs", dist.Normal(w * bad.get("scale", X), tau.rsqrt()), obs=Y)

    site = {"hyperparameter": "w", "factor": "extra", "scale": "y_obs"}[place]
    blr, _ = engine(model)
    with pytest.raises(NonFiniteError, match=site):
        blr.step()


class _Names(TorchDispatchMode):
    """The operations that see a tensor of at least `size` elements."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size, self.seen = size, set[str]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if any(isinstance(a, Tensor) and a.numel() >= self.size for a in args):
            self.seen.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_no_pass_over_the_data_looks_for_nan() -> None:
    """A NaN shows in the folded sums: no operation runs through the rows only to find it."""
    x, y = randn(2, 5000), randn(3, 5000)
    blr, _ = engine(exact)
    blr.step(X, Y)  # the prototype of the guide is plain Pyro, whose own validation looks
    with _Names(5000) as names:
        blr.step(x, y)
    assert names.seen
    assert not names.seen & {"isnan", "isfinite", "isinf", "ne", "nan_to_num", "eq"}, names.seen


def test_masked_datum_may_be_anything() -> None:
    """A masked NaN is no datum: the result without it, or an error that says what to do."""
    keep = torch.arange(12) != 4
    bad = Y.clone()
    bad[4] = math.nan

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)), poutine.mask(mask=keep):
            pyro.sample("y_obs", dist.Normal(w * x, 1.0), obs=y)

    blr, guide = engine(model, step_size=1.0)
    try:
        blr.step(X, bad)
    except BLRError as error:
        assert "y_obs" in str(error)
        return
    precision = 1 + X[keep].square().sum()
    mean = (X[keep] * Y[keep]).sum() / precision
    assert torch.allclose(guide.marginal("w").mean, mean, rtol=1e-10)


# --------------------------------------------------------------------- values outside the support

OUTSIDE: dict[str, tuple[Callable[[Tensor], Any], float]] = {
    "negative count": (lambda tau: dist.Poisson(tau), -1.0),
    "half a count": (lambda tau: dist.Poisson(tau), 0.5),
    "coin of 2": (lambda tau: dist.Bernoulli(logits=tau), 2.0),
    "negative time": (lambda tau: dist.Exponential(tau), -0.1),
    "negative gamma": (lambda tau: dist.Gamma(2.0, tau), -1.0),
    "eleven of ten": (lambda tau: dist.Binomial(10, logits=tau), 11.0),
    "category 3 of 3": (
        lambda tau: dist.Categorical(logits=torch.stack([tau, -tau, 0 * tau])),
        3.0,
    ),
    "negative half-normal": (lambda tau: dist.HalfNormal(tau.rsqrt()), -1.0),
}


@quiet
@pytest.mark.parametrize("case", OUTSIDE)
def test_observation_outside_the_support(case: str) -> None:
    make, bad = OUTSIDE[case]

    def model(y: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y_obs", make(tau), obs=y)

    good = torch.ones(4)
    blr, guide = engine(model)
    blr.step(good)
    before = guide.median()["tau"].clone()
    with pytest.raises(SupportError, match="y_obs"):
        blr.step(torch.tensor([1.0, bad, 1.0, 1.0]))
    assert torch.equal(guide.median()["tau"], before)
    assert math.isfinite(blr.step(good))


# ---------------------------------------------------------------------- models and guides that miss


def test_model_without_latents() -> None:
    def model(y: Tensor) -> None:
        with pyro.plate("data", len(y)):
            pyro.sample("y_obs", dist.Normal(0.0, 1.0), obs=y)

    with pytest.raises(NoLatentError, match=r"pyro\.sample|latent"):
        engine(model)[0].step(Y)


def test_guide_that_misses_a_site() -> None:
    guide = AutoNatural(poutine.block(exact, hide=["tau"]))
    blr = BLR(exact, guide)
    with pytest.raises(GuideError, match="tau"):
        blr.step(X, Y)


def test_guide_with_a_site_that_the_model_lacks() -> None:
    def without_tau(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y_obs", dist.Normal(w * x, 1.0), obs=y)

    guide = AutoNatural(exact)
    guide(X, Y)
    with pytest.raises(GuideError, match="tau"):
        BLR(without_tau, guide).step(X, Y)


def test_site_that_appears_later() -> None:
    def model(x: Tensor, y: Tensor, more: bool) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        if more:
            w = w + pyro.sample("late", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y_obs", dist.Normal(w * x, 1.0), obs=y)

    blr, _ = engine(model)
    blr.step(X, Y, False)
    with pytest.raises(GuideError, match="late"):
        blr.step(X, Y, True)


def test_discrete_latent() -> None:
    """Summed out or refused; never guided by a Gaussian."""

    def model(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            label = pyro.sample("label", dist.Bernoulli(0.3))
            pyro.sample("y_obs", dist.Normal(w + label, 1.0), obs=y)

    blr, _ = engine(model)
    try:
        loss = blr.step(Y)
    except DiscreteLatentError as error:
        assert "label" in str(error)
    else:
        assert math.isfinite(loss)


@pytest.mark.parametrize(
    "use",
    [
        lambda w: 1.0 if w > 0 else 2.0,
        lambda w: float(w),
        lambda w: w.add_(1.0),
        lambda w: w.item(),
        lambda w: float((w * 2).sin()),
    ],
    ids=["if", "float()", "in place", "item()", "float() of an expression"],
)
def test_latent_used_as_a_number(use: Callable[[Tensor], Any]) -> None:
    def model(x: Tensor, y: Tensor, plain: bool) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        loc = w if plain else use(w)
        with pyro.plate("data", len(y)):
            pyro.sample("y_obs", dist.Normal(loc * x, tau.rsqrt()), obs=y)

    blr, guide = engine(model)
    blr.step(X, Y, True)
    with guide_keeps_its_state(guide), pytest.raises(ControlFlowError, match=r"\bw\b") as caught:
        blr.step(X, Y, False)
    assert "Mend:" in str(caught.value)


def test_error_of_the_model_itself_passes_through() -> None:
    class MyError(Exception):
        pass

    def model(x: Tensor, y: Tensor) -> None:
        pyro.sample("w", dist.Normal(0.0, 1.0))
        raise MyError("mine")

    with pytest.raises(MyError, match="mine"):
        engine(model)[0].step(X, Y)


# ------------------------------------------------------------------------- posteriors that are none


@pytest.mark.parametrize("step_size", ["auto", 1.0])
@pytest.mark.parametrize("site", ["w", "tau"])
def test_improper_posterior(site: str, step_size: Any) -> None:
    def model(x: Tensor, y: Tensor, bad: bool) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        if bad:
            # Against exp(-w^2/2) and exp(-tau): both densities grow without end.
            pyro.factor("push", w**2 if site == "w" else 3 * tau)
        pyro.sample("y_obs", dist.Normal(0.0, 1.0), obs=torch.zeros(()))

    blr, guide = engine(model, step_size=step_size)
    blr.step(X, Y, False)
    with guide_keeps_its_state(guide), pytest.raises(ImproperPosteriorError, match=rf"\b{site}\b"):
        blr.step(X, Y, True)
    with pytest.raises(ImproperPosteriorError):
        blr.fit(X, Y, True, max_steps=200)


def test_improper_prior_that_the_data_mend() -> None:
    """A flat factor is no error by itself: only the sum of the messages has to be proper."""

    def model(y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.factor("undo", 0.5 * w**2)  # takes the prior away again
        with pyro.plate("data", len(y)):
            pyro.sample("y_obs", dist.Normal(w, 1.0), obs=y)

    blr, guide = engine(model, step_size=1.0)
    blr.step(Y)
    assert torch.allclose(guide.marginal("w").mean, Y.mean(), rtol=1e-10)
    assert torch.allclose(guide.marginal("w").variance, torch.tensor(1 / 12), rtol=1e-10)


def test_stored_plate_that_changes_its_size() -> None:
    def model(y: Tensor) -> None:
        with pyro.plate("schools", len(y)):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
            pyro.sample("y_obs", dist.Normal(u, 1.0), obs=y)

    blr, guide = engine(model)
    blr.step(Y)
    before = guide.marginal("u").mean.clone()
    with pytest.raises(PlateSizeError, match="schools") as caught:
        blr.step(Y[:5])
    assert "12" in str(caught.value)
    assert "5" in str(caught.value)
    assert torch.equal(guide.marginal("u").mean, before)
    with pytest.raises(PlateSizeError, match="schools"):
        blr.evaluate_loss(torch.cat([Y, Y]))


# Data that are no tensors


@pytest.mark.parametrize("y", [X.numpy(), [1.0, 2.0]])
def test_data_that_are_no_tensor_are_named(y: Any) -> None:
    def model(y: Any) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(ArgumentError, match=r"site 'y' is a .*, not a tensor\. Mend: torch\.as_"):
        BLR(model, AutoNatural(model)).step(y)


@pytest.mark.parametrize("label", [1, 1.0, True, torch.tensor(1), torch.tensor(1.0).numpy()[()]])
def test_a_number_is_a_datum(label: Any) -> None:
    def model(label: Any) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Bernoulli(logits=z), obs=label)

    losses = []
    for own in (label, torch.tensor(1.0)):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        losses.append(BLR(model, AutoNatural(model)).step(own))
    assert losses[0] == pytest.approx(losses[1], abs=1e-9)


@pytest.mark.parametrize(("label", "error"), [(2, SupportError), (math.nan, NonFiniteError)])
def test_a_number_that_is_no_datum_is_refused(label: Any, error: type[BLRError]) -> None:
    def model(label: Any) -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Bernoulli(logits=z), obs=label)

    with pytest.raises(error, match=r"site 'y'.*Mend"):
        BLR(model, AutoNatural(model)).step(label)
