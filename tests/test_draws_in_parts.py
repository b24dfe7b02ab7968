# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Draws whose graph memory would not hold are taken in parts, with the same derivatives."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.energy import draws, sampled
from pyro_blr.guides import AutoNaturalMultivariateNormal

X = torch.linspace(-1.0, 1.0, 12).reshape(6, 2)
Y = torch.linspace(-0.5, 1.0, 6)


def curved() -> None:
    """Nothing in it has a closed form or a rule."""
    w = pyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    s = pyro.sample("s", dist.LogNormal(0, 0.5))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(torch.tanh(X @ w) * s, 0.1 + s), obs=Y)


def with_parameter() -> None:
    """A parameter takes its gradient from the values at the draws."""
    scale = pyro.param("scale", torch.tensor(0.7))
    w = pyro.sample("w", dist.Normal(0, 1).expand([2]).to_event(1))
    with pyro.plate("data", 6):
        pyro.sample("y", dist.Normal(torch.tanh(X @ w), scale), obs=Y)


def messages(model: Callable[[], None], estimator: str) -> list[Tensor]:
    """The messages of the first step; with them the parameter after it."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    guide = AutoNaturalMultivariateNormal(model)
    optim = pyro.optim.Adam({"lr": 0.1})
    blr = BLR(model, guide, optim, on_sampled="ignore", estimator=estimator)
    blr.step()
    after = [t for natural in blr.messages().values() for t in natural]
    return after + [pyro.param(name).detach() for name in pyro.get_param_store()]


@pytest.mark.parametrize("estimator", ["auto", "stein", "hessian", "gauss_newton"])
@pytest.mark.parametrize("model", [curved, with_parameter])
def test_messages_are_those_of_all_draws(
    model: Callable[[], None], estimator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = messages(model, estimator)
    monkeypatch.setattr(sampled, "HELD_NUMBERS", 1000)
    monkeypatch.setattr(draws, "CACHED_NUMBERS", 300)
    for one, other in zip(messages(model, estimator), whole, strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-10)
