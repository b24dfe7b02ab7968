# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The engine under gradient modes, with parameters, without covariates."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR, errors
from pyro_blr.guides import AutoNatural

X = torch.linspace(-1.0, 2.0, 40, dtype=torch.float64).reshape(20, 2)
Y = (X[:, 0] > 0.2).double()


def _logistic(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("n", 20):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_steps_do_not_depend_on_the_gradient_mode(mode: type) -> None:
    start = {"w": dist.MultivariateNormal(torch.zeros(2), 0.01 * torch.eye(2))}
    losses = []
    for context in (torch.enable_grad, mode):
        guide = AutoNatural(_logistic)
        guide.set_natural(start)
        blr = BLR(_logistic, guide)
        with context():
            losses.append([blr.step(X, Y) for _ in range(4)])
    assert losses[0] == losses[1]


def test_a_parameter_that_still_moves_is_not_called_converged() -> None:
    y = torch.linspace(-0.5, 2.5, 20)

    def model() -> None:
        p = pyro.param("p", torch.tensor(1.0), constraint=dist.constraints.positive)
        z = pyro.sample("z", dist.Normal(0.0, p))
        with pyro.plate("n", 20):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    blr = BLR(model, AutoNatural(model), pyro.optim.Adam({"lr": 0.02}))
    fit = blr.fit(max_steps=5)
    assert not fit.converged
    assert "'p'" in fit.reason


def test_a_regression_without_covariates_is_the_model_without_them() -> None:
    y = torch.linspace(-1.0, 1.0, 5)

    def empty() -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        w = pyro.sample("w", dist.Normal(torch.zeros(0), 1.0).to_event(1))
        with pyro.plate("n", 5):
            pyro.sample("y", dist.Normal(torch.zeros(5, 0) @ w, tau.rsqrt()), obs=y)

    guide = AutoNatural(empty)
    BLR(empty, guide).fit()
    posterior = guide.marginal("tau")
    assert abs(posterior.rate - (1.0 + 0.5 * y.square().sum())) < 1e-12


def test_the_marginal_of_a_positive_latent_is_log_normal() -> None:
    def model() -> None:
        tau = pyro.sample("tau", dist.HalfCauchy(5.0))
        with pyro.plate("n", 20):
            pyro.sample("y", dist.Normal(0.0, tau), obs=X[:, 0])

    guide = AutoNatural(model)
    BLR(model, guide).fit()
    posterior = guide.marginal("tau")
    assert isinstance(posterior, dist.LogNormal)
    draws = guide.sample_posterior(20000)["tau"]
    assert abs(draws.mean() - posterior.mean) < 5 * posterior.stddev / 20000**0.5


def _mean(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 2.0))
    with pyro.plate("d", len(y)):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


@pytest.mark.parametrize(
    "method", ["step", "fit", "evaluate_loss", "explain", "messages", "influence", "trace_report"]
)
def test_a_call_that_the_model_does_not_take_says_what_it_needs(method: str) -> None:
    y = torch.ones(3)
    blr = BLR(_mean, AutoNatural(_mean))
    blr.fit(y)
    for args in ((), (y, y)):
        with pytest.raises(errors.ArgumentError, match=rf"{method} calls the model.*\(y"):
            getattr(blr, method)(*args)
    with pytest.raises(errors.ArgumentError, match="'bogus'"):
        getattr(blr, method)(y, bogus=1)


def test_a_type_error_inside_a_model_stays_what_it_is() -> None:
    def model(y: Tensor) -> None:
        pyro.sample("z", dist.Normal(0.0, len(3)))  # type: ignore[arg-type]

    with pytest.raises(TypeError, match="len"):
        BLR(model, AutoNatural(model)).explain(torch.ones(3))


@pytest.mark.parametrize("method", ["explain", "trace_report"])
def test_a_name_that_is_not_there_says_which_are(method: str) -> None:
    blr = BLR(_mean, AutoNatural(_mean))
    with pytest.raises(KeyError, match=r"'nope'; there are \[.*'y'") as caught:
        getattr(blr, method)(torch.ones(3))["nope"]
    assert isinstance(caught.value, errors.UnknownNameError)
