# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Which ends of the delta method's steps are modes: no saddle, no ridge, no way without an end."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import init_to_value
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import DomainError, NonFiniteError, SaddleError
from pyro_blr.guides import AutoNatural, AutoNaturalMultivariateNormal, AutoNaturalNormal


def saddle() -> None:
    a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0).mask(False))
    b = pyro.sample("b", dist.Normal(torch.zeros(()), 1.0).mask(False))
    pyro.factor("f", -0.5 * a**2 + 0.5 * b**2 - 0.25 * b**4)


def at(a: float, b: float) -> Any:
    return init_to_value(values={"a": torch.tensor(a), "b": torch.tensor(b)})


@pytest.mark.parametrize("rho", [1.0, 0.9])
def test_newton_at_a_saddle_is_an_error(rho: float) -> None:
    guide = AutoNaturalMultivariateNormal(saddle, init_loc_fn=at(0.5, 0.1), init_scale=1.0)
    blr = BLR(saddle, guide, estimator="delta", step_size=rho)
    with pytest.raises(SaddleError, match=r"'a\+b'.*Mend: step_size=\"auto\""):
        blr.step()
    assert guide.median()["b"] == pytest.approx(0.1)  # as it was


@pytest.mark.parametrize("b", [0.1, 0.0])
def test_auto_leaves_a_saddle(b: float) -> None:
    """Also where the gradient is 0, so that nothing but negative curvature tells."""
    guide = AutoNaturalMultivariateNormal(saddle, init_loc_fn=at(0.5, b))
    fit = BLR(saddle, guide, estimator="delta").fit()
    assert fit.converged
    assert abs(float(guide.median()["b"])) == pytest.approx(1.0, abs=1e-3)


def test_a_ridge_is_not_certified() -> None:
    def ridge() -> None:
        a = pyro.sample("a", dist.Normal(torch.zeros(()), 1.0).mask(False))
        b = pyro.sample("b", dist.Normal(torch.zeros(()), 1.0).mask(False))
        pyro.factor("f", -((a - b) ** 2))

    blr = BLR(ridge, AutoNaturalMultivariateNormal(ridge), estimator="delta")
    fit = blr.fit(max_steps=60)
    assert not fit.converged and "Mend" in fit.reason


@pytest.mark.parametrize("guide", [AutoNaturalMultivariateNormal, AutoNaturalNormal, AutoNatural])
def test_a_density_without_a_mode(guide: Any) -> None:
    """A centred hierarchy is the denser the smaller its scale: there is no certificate of it."""

    def model(y: Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Normal(mu, tau))
            pyro.sample("y", dist.Normal(z, 10.0), obs=y)

    torch.manual_seed(0)
    y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
    own = guide(model)
    try:
        fit = BLR(model, own, estimator="delta").fit(y, max_steps=60)
    except DomainError as error:
        assert "no upper bound" in str(error) and "Mend" in str(error)
    else:
        assert not fit.converged
    assert float(own.median()["tau"]) < 0.1


def separated() -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(()), 1.0).mask(False))
    with pyro.plate("n", 2):
        pyro.sample("y", dist.Bernoulli(logits=w * torch.tensor([-1.0, 2.0])), obs=torch.eye(2)[1])


def one_datum_and_its_scale() -> None:
    m = pyro.sample("m", dist.Normal(0.0, 1.0))
    s = pyro.sample("s", dist.HalfCauchy(1.0))
    pyro.sample("y", dist.Normal(m, s), obs=torch.tensor(0.3))


def flat() -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0).mask(False))
    pyro.factor("f", 0.0 * z)


def linear() -> None:
    z = pyro.sample("z", dist.Normal(torch.zeros(()), 1.0).mask(False))
    pyro.factor("f", 2.0 * z)


def growing() -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.factor("f", z.exp())


def pole() -> None:
    z = pyro.sample("z", dist.HalfNormal(1.0))
    pyro.factor("f", -3.0 * z.log())


def with_parts(size: int) -> Any:
    def model() -> None:
        """Of so many separated slopes that no Hessian is formed."""
        w = pyro.sample("w", dist.Normal(torch.zeros(size), 1.0).mask(False).to_event(1))
        pyro.factor("f", torch.nn.functional.logsigmoid(w * torch.linspace(1.0, 2.0, size)).sum())

    return model


NO_MODES = {
    "levels off": (separated, "levels off"),
    "levels off in large": (with_parts(150), "levels off"),
    "levels off at a bound": (one_datum_and_its_scale, "levels off"),
    "flat": (flat, "along some direction the log joint is flat"),
    "linear": (linear, "along some direction the log joint is flat"),
    "exponential": (growing, "no upper bound"),
    "pole": (pole, "no upper bound"),
}


@pytest.mark.parametrize("guide", [AutoNaturalMultivariateNormal, AutoNaturalNormal])
@pytest.mark.parametrize("name", NO_MODES)
def test_without_a_mode_a_fit_says_so_and_q_is_no_nan(name: str, guide: Any) -> None:
    """It ends before max_steps, by itself, wherever the log density leads."""
    model, why = NO_MODES[name]
    own = guide(model)
    try:
        fit = BLR(model, own, estimator="delta").fit(max_steps=100)
    except NonFiniteError as error:
        assert why in str(error) and "leave out estimator" in str(error)
    else:
        assert not fit.converged and fit.steps < 100
        assert fit.gap == math.inf
        assert why in fit.reason and "Mend" in fit.reason
    for median in own.median().values():
        assert torch.isfinite(median).all()


def test_a_mode_of_a_law_on_a_bounded_space_is_that_of_its_chart() -> None:
    """A Gamma of shape 1/2 has its mode at a pole; with the Jacobian of log z it is at 1/2."""

    def model() -> None:
        pyro.sample("z", dist.Gamma(0.5, 1.0))

    guide = AutoNaturalMultivariateNormal(model)
    fit = BLR(model, guide, estimator="delta").fit()
    assert fit.converged
    assert float(guide.median()["z"]) == pytest.approx(0.5, abs=1e-6)


def of_zeros(sd: float) -> Any:
    def model() -> None:
        """Five counts of 0: strictly concave, and far from quadratic over the width of q."""
        x = pyro.sample("x", dist.Normal(0.0, sd))
        with pyro.plate("n", 5):
            pyro.sample("y", dist.Poisson(x.exp()), obs=torch.zeros(5))

    return model


def of_squares() -> None:
    """A bump as flat as a fourth power."""
    x = pyro.sample("x", dist.Normal(0.0, 10.0))
    pyro.sample("y", dist.Normal(x**2, 1.0), obs=torch.tensor(0.0))


@pytest.mark.parametrize("model", [of_zeros(100.0), of_zeros(1000.0), of_squares])
def test_a_mode_need_not_look_like_a_gaussian(model: Any) -> None:
    fit = BLR(model, AutoNatural(model), estimator="delta").fit()
    assert fit.converged, fit.reason


def test_a_mode_of_many_is_reached_from_afar() -> None:
    """Where conjugate gradients have not solved Newton's step yet, steps go on."""
    y = torch.arange(140.0) % 7

    def model() -> None:
        with pyro.plate("n", len(y)):
            x = pyro.sample("x", dist.Normal(0.0, 300.0))
            pyro.sample("y", dist.Poisson(x.exp()), obs=y)

    fit = BLR(model, AutoNatural(model), estimator="delta").fit(max_steps=500)
    assert fit.converged, fit.reason
