# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Pyro's reparameterisations of sites whose distributions have lifted arguments."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import AutoReparam, LocScaleReparam

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural, AutoNaturalMultivariateNormal

Y = torch.tensor([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
S = torch.tensor([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])


def centred() -> None:
    """The effects about their mean, in a plate."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, S), obs=Y)


def as_event() -> None:
    """The same as one event."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    theta = pyro.sample("theta", dist.Normal(mu, tau).expand([8]).to_event(1))
    pyro.sample("y", dist.Normal(theta, S).to_event(1), obs=Y)


def by_hand() -> None:
    """The same, not centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        e = pyro.sample("e", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * e, S), obs=Y)


def heavy() -> None:
    """With a shape parameter, which the reparameterisation copies."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        theta = pyro.sample("theta", dist.StudentT(4.0, mu, tau))
        pyro.sample("y", dist.Normal(theta, S), obs=Y)


def heavy_by_hand() -> None:
    """The same, not centred."""
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.HalfCauchy(5.0))
    with pyro.plate("schools", 8):
        e = pyro.sample("e", dist.StudentT(4.0, 0.0, 1.0))
        pyro.sample("y", dist.Normal(mu + tau * e, S), obs=Y)


def optimum(model: Callable[[], None], kind: Any) -> float:
    """The loss where a fit converges."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    fit = BLR(model, kind(model), on_sampled="ignore").fit()
    assert fit.converged
    return fit.losses[-1]


@pytest.mark.parametrize("kind", [AutoNatural, AutoNormal, AutoNaturalMultivariateNormal])
@pytest.mark.parametrize(
    ("model", "same"), [(centred, by_hand), (as_event, by_hand), (heavy, heavy_by_hand)]
)
def test_decentred_is_the_model_without_centres(
    model: Callable[[], None], same: Callable[[], None], kind: Any
) -> None:
    changed = poutine.reparam(model, {"theta": LocScaleReparam(0.0)})
    assert optimum(changed, kind) == pytest.approx(optimum(same, kind), abs=2e-5)


def test_in_between_and_by_a_parameter() -> None:
    half = poutine.reparam(centred, {"theta": LocScaleReparam(0.5)})
    ends = optimum(by_hand, AutoNormal), optimum(centred, AutoNormal)
    assert ends[0] < optimum(half, AutoNormal) < ends[1]
    for learnt in (LocScaleReparam(), AutoReparam()):
        config = {"theta": learnt} if isinstance(learnt, LocScaleReparam) else learnt
        pyro.clear_param_store()
        model = poutine.reparam(centred, config=config)
        blr = BLR(model, AutoNormal(model), on_sampled="ignore")
        losses = [blr.step() for _ in range(20)]
        assert losses[-1] < losses[0]


def test_a_power_of_zero_is_no_latent() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ones = [z**0, z**0.0, torch.pow(z, exponent=0), z.pow(0)]
        assert all(type(one) is torch.Tensor and bool((one == 1).all()) for one in ones)
        pyro.sample("y", dist.Normal(z, ones[0]).to_event(1), obs=torch.ones(2))

    assert BLR(model, AutoNatural(model)).fit().converged
