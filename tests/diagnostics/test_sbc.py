# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Ranks are uniform where q is the posterior, and say what is wrong where it is not."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam

from pyro_blr import BLR, errors
from pyro_blr.diagnostics import sbc
from pyro_blr.guides import AutoNatural
from tests.diagnostics.models import CONJUGATE, coin, fitted, narrow, normal_mean, regression


@pytest.mark.parametrize("name", CONJUGATE)
def test_flat_on_conjugate_models(name):
    model, data = CONJUGATE[name]
    calibration = sbc(model, *data(), num=100)
    assert calibration.p_value > 0.01 and calibration.symmetry_p_value > 0.01
    assert calibration.is_calibrated and "calibrated as far as 100" in str(calibration)


@pytest.mark.parametrize("name", ["normal_mean", "rate", "regression"])
def test_tilted_on_a_guide_that_is_three_times_too_narrow(name):
    model, data = CONJUGATE[name]
    calibration = sbc(model, *data(), fit=lambda m, *a: narrow(fitted(m, *a)), num=50)
    assert calibration.p_value < 1e-4 and not calibration.is_calibrated
    assert "too narrow in site" in calibration.verdict


def exact_draws(y, shift=0.0, scale=1.0):
    """Draws of the posterior of normal_mean, or of a law about it."""
    precision = 0.25 + len(y)
    mean, sd = y.sum() / precision, precision**-0.5
    return {"z": mean + sd * (shift + scale * torch.randn(200))}


def observed(model):
    """The data that a model holds."""
    with poutine.trace() as tracer:
        model(torch.zeros(10))
    return tracer.trace.nodes["y"]["value"]


@pytest.mark.parametrize(
    "shift, scale, words",
    [
        (0.0, 0.4, "too narrow"),
        (0.0, 2.5, "too wide"),
        (1.0, 1.0, "too high"),
        (-1.0, 1.0, "too low"),
    ],
)
def test_the_verdict_names_what_is_wrong(shift, scale, words):
    def draws(model, y):
        return exact_draws(observed(model), shift, scale)

    calibration = sbc(normal_mean, torch.zeros(10), fit=draws)
    assert f"{words} in site z" in calibration.verdict
    # Its mean is biased only where it is off to a side.
    assert (calibration.symmetry_p_value < 1e-3) == (shift != 0)


def test_one_bad_site_is_named_alone():
    def fit(model, X, y):
        draws = fitted(model, X, y).blr.guide.sample_posterior(200)
        mean = draws["tau"].mean(0)
        return {**draws, "tau": mean + (draws["tau"] - mean) / 3}

    calibration = sbc(regression, *CONJUGATE["regression"][1](), fit=fit)
    assert "too narrow in site tau" in calibration.verdict and "site w" not in calibration.verdict


def test_p_values_are_uniform_over_repeated_calibrations():
    def draws(model, y):
        return exact_draws(observed(model))

    found = [sbc(normal_mean, torch.zeros(10), fit=draws, num=30).p_value for _ in range(40)]
    assert sum(p < 0.1 for p in found) <= 10 and sum(p > 0.5 for p in found) >= 10


def test_ties_of_discrete_draws_do_not_tilt_the_ranks():
    def draws(model, y):
        return {"p": exact_grid(observed_of(model, y))}

    def observed_of(model, y):
        with poutine.trace() as tracer:
            model(y)
        return tracer.trace.nodes["y"]["value"]

    def exact_grid(y):
        return torch.full((200,), float((2 + y.sum()) / (4 + len(y))))

    calibration = sbc(coin, torch.zeros(8), fit=draws)  # a point mass
    assert "too narrow" in calibration.verdict


def test_data_that_are_read_twice_are_simulated_by_the_user():
    def walk(y):
        drift = pyro.sample("drift", dist.Normal(0.0, 1.0))
        with pyro.plate("steps", len(y) - 1):
            pyro.sample("y", dist.Normal(y[:-1] + drift, 1.0), obs=y[1:])

    def simulate(latents):
        steps = latents["drift"] + torch.randn(9)
        return torch.cat([torch.zeros(1), steps]).cumsum(0)

    assert sbc(walk, torch.zeros(10), simulate=simulate, num=50).p_value > 0.01


def test_a_fit_by_svi():
    def fit(model, y):
        guide = AutoNormal(model)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.1}), Trace_ELBO())
        for _ in range(5):
            svi.step(y)
        return svi

    calibration = sbc(normal_mean, torch.zeros(10), fit=fit, num=30)
    assert calibration.num == 30 and set(calibration.ranks) == {"z"}
    assert calibration.p_value < 0.01  # five steps are no fit


def test_the_store_and_the_model_are_left_alone():
    pyro.param("own", torch.tensor(1.0))
    y = torch.zeros(10)
    sbc(normal_mean, y, num=20)
    assert list(pyro.get_param_store().keys()) == ["own"] and (y == 0).all()


class Shifted(PyroModule):
    """A model with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.shift = PyroParam(torch.tensor(0.5))

    def forward(self, y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(z + self.shift, 1.0), obs=y)


def test_a_module_keeps_its_parameters():
    model = Shifted()
    sbc(model, torch.zeros(10), num=20, fit=lambda m, y: BLR(m, AutoNatural(m)).fit(y, max_steps=2))
    assert float(model.shift) == 0.5


def test_elements_are_corrected_for_and_the_worst_is_named():
    calibration = sbc(*_with_groups(), num=50)
    assert calibration.each_p_value["effect"].shape == (5, 1)
    index, numbers = calibration.worst("effect")
    assert len(index) == 2 and numbers.shape == (50,)
    assert calibration.p_values["effect"] >= float(calibration.each_p_value["effect"].min())


def _with_groups():
    model, data = CONJUGATE["groups"]
    return model, *data()


# Bad input


def test_no_observed_site():
    def model(y=None):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(errors.ArgumentError, match=r"no observed site.*Mend"):
        sbc(model)


def test_a_factor_has_no_data():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("penalty", -(z**2))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(errors.ArgumentError, match=r"'penalty' is a pyro.factor.*Mend"):
        sbc(model, torch.tensor(0.0))


def test_a_scaled_site():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 100, subsample=torch.arange(10)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(errors.ArgumentError, match=r"'y' is scaled.*Mend"):
        sbc(model, torch.zeros(10))


def test_an_improper_prior():
    def model(y):
        z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(errors.ArgumentError, match=r"improper prior.*Mend"):
        sbc(model, torch.tensor(0.0))


@pytest.mark.parametrize("options", [{"num": 5}, {"num": 2.5}, {"num_samples": 3}])
def test_too_few(options):
    with pytest.raises(errors.ArgumentError, match="Mend"):
        sbc(normal_mean, torch.zeros(10), **options)


def test_a_fit_that_fails_says_in_which_simulation():
    def fit(model, y):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no") as caught:
        sbc(normal_mean, torch.zeros(10), fit=fit)
    assert caught.value.__notes__ == ["in simulation 0 of 100 of the calibration"]


def test_draws_without_a_latent_of_the_model():
    with pytest.raises(errors.GuideError, match="Mend"):
        sbc(normal_mean, torch.zeros(10), fit=lambda m, y: {"other": torch.zeros(50)})


def test_draws_of_another_shape():
    with pytest.raises(errors.GuideError, match=r"site 'z' .*shape \(50, 3\).*Mend"):
        sbc(normal_mean, torch.zeros(10), fit=lambda m, y: {"z": torch.zeros(50, 3)})


def test_draws_that_are_not_finite():
    with pytest.raises(errors.NonFiniteError, match=r"site 'z' in simulation 0.*Mend"):
        sbc(normal_mean, torch.zeros(10), fit=lambda m, y: {"z": torch.full((50,), torch.nan)})


def test_functions_and_calls_that_cannot_be():
    model, data = CONJUGATE["normal_mean"]
    with pytest.raises(errors.ArgumentError, match=r"fit must be a function.*Mend: sbc"):
        sbc(model, *data(), fit=3)
    with pytest.raises(errors.ArgumentError, match=r"simulate must be a function.*Mend"):
        sbc(model, *data(), simulate=3)
    with pytest.raises(errors.ArgumentError, match=r"needs the model.*Mend: sbc"):
        sbc(3, *data())
    with pytest.raises(errors.ArgumentError, match=r"missing.*Mend: sbc\(model, y\)"):
        sbc(model)
    with pytest.raises(errors.ArgumentError, match=r"'bogus'.*Mend: sbc"):
        sbc(model, *data(), bogus=1)
