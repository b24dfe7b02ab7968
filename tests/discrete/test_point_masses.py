# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Point masses beside discrete latents: the mode is that of the model with the sum written out."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, init_to_value

from pyro_blr import BLR, errors
from pyro_blr.guides import AutoNatural

START = {"mu": torch.tensor([-1.0, 1.0]), "tau": torch.ones(2)}
WEIGHTS = torch.tensor([0.6, 0.4])


def components() -> tuple[torch.Tensor, torch.Tensor]:
    with pyro.plate("component", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
    return mu, tau


def with_choices(x: torch.Tensor) -> None:
    mu, tau = components()
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(WEIGHTS))
        pyro.sample("x", dist.Normal(mu[k], tau[k].rsqrt()), obs=x)


def written_out(x: torch.Tensor) -> None:
    mu, tau = components()
    law = dist.MixtureSameFamily(dist.Categorical(WEIGHTS), dist.Normal(mu, tau.rsqrt()))
    with pyro.plate("data", len(x)):
        pyro.sample("x", law, obs=x)


def rows() -> torch.Tensor:
    return torch.cat([torch.randn(60) - 3.0, torch.randn(40) + 3.0])


def mode(model: Callable[..., None], x: torch.Tensor, **settings: Any) -> Any:
    pyro.clear_param_store()
    exposed = poutine.block(model, expose=["mu", "tau"])
    guide = AutoDelta(exposed, init_loc_fn=init_to_value(values=START))
    fit = BLR(model, guide, **settings).fit(x)
    return fit, guide.median()


@pytest.mark.parametrize("decorated", [with_choices, config_enumerate(with_choices)])
@pytest.mark.parametrize("loss", [None, TraceEnum_ELBO(max_plate_nesting=1)])
def test_the_mode_is_that_of_the_sum_written_out(decorated: Any, loss: Any) -> None:
    x = rows()
    expected, points = mode(written_out, x)
    found, medians = mode(decorated, x, loss=loss)
    assert expected.converged and found.converged
    for name, point in points.items():
        torch.testing.assert_close(medians[name], point, rtol=1e-6, atol=1e-6)


def test_a_model_without_other_latents_is_pointed_to_exact_inference() -> None:
    def model(x: torch.Tensor) -> None:
        with pyro.plate("data", len(x)):
            k = pyro.sample("k", dist.Categorical(WEIGHTS))
            pyro.sample("x", dist.Normal(6.0 * k - 3.0, 1.0), obs=x)

    with pytest.raises(errors.NoLatentError, match=r"pyro_blr\.latent\.conjugated"):
        BLR(model, AutoNatural(model)).step(rows())
