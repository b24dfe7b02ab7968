# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Draws take the data that fits take, and say of other data what is wrong with them."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR, errors
from pyro_blr.draws import draws_of
from pyro_blr.guides import AutoNatural

NAN = float("nan")


def _mean(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 2.0))
    with pyro.plate("d", len(y)), pyro.poutine.mask(mask=~y.isnan()):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def _unmasked(y: Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 2.0))
    with pyro.plate("d", len(y)):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def _local(y: Tensor) -> None:
    with pyro.plate("d", len(y)):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def _fit(model: Any, *args: Any) -> Any:
    return BLR(model, AutoNatural(model)).fit(*args)


def test_booleans_are_data_of_a_bernoulli() -> None:
    def model(y: Tensor) -> None:
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        with pyro.plate("d", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    y = torch.tensor([True, False, True])
    draws = draws_of(_fit(model, y), (y,), num_samples=20)
    p = draws.latents["p"]
    wanted = torch.stack([p.log(), (1 - p).log(), p.log()], -1)
    assert torch.allclose(draws.log_likelihood["y"], wanted, atol=1e-5)
    assert draws.observed["y"].tolist() == [1.0, 0.0, 1.0]


@pytest.mark.parametrize("num_samples", [2, 20])  # one by one, and together
def test_masked_data_may_be_nan(num_samples: int) -> None:
    y = torch.tensor([1.0, NAN, 0.5])
    draws = draws_of(_fit(_mean, y), (y,), num_samples=num_samples)
    assert bool((draws.log_likelihood["y"][:, 1] == 0).all())
    assert bool((draws.log_likelihood["y"][:, 0] < 0).all())
    assert draws.observed["y"].isnan().tolist() == [False, True, False]


def test_no_data_have_no_log_likelihood() -> None:
    def model(y: Tensor) -> None:
        r = pyro.sample("r", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(r, 1.0).expand([0]).to_event(1), obs=y)

    y = torch.zeros(0)
    draws = draws_of(_fit(model, y), (y,), num_samples=20)
    assert draws.observed["y"].shape == (0,)
    assert draws.log_q is not None
    assert torch.allclose(draws.log_p, draws.log_q, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.float64])
@pytest.mark.parametrize("is_event", [False, True])
def test_labels_of_any_dtype_have_the_density_of_real_ones(
    dtype: torch.dtype, is_event: bool
) -> None:
    def model(y: Tensor) -> None:
        logit = pyro.sample("logit", dist.Normal(0.0, 1.0))
        law = dist.Bernoulli(logits=logit)
        if is_event:
            pyro.sample("y", law.expand([3]).to_event(1), obs=y)
            return
        with pyro.plate("d", 3):
            pyro.sample("y", law, obs=y)

    y = torch.tensor([1, 0, 1])
    fit = _fit(model, y.double())
    found = []
    for own in (y.to(dtype), y.double()):
        pyro.set_rng_seed(0)
        found.append(draws_of(fit, (own,), num_samples=20).log_likelihood["y"].double())
    assert torch.allclose(found[0], found[1], rtol=1e-6)


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_data_that_are_not_finite_are_named(value: float) -> None:
    fit = _fit(_unmasked, torch.ones(2))
    with pytest.raises(errors.NonFiniteError, match=r"data of site 'y'.*Mend"):
        draws_of(fit, (torch.tensor([1.0, value]),))


def test_data_outside_the_support_are_named() -> None:
    def model(y: Tensor) -> None:
        rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
        with pyro.plate("d", len(y)):
            pyro.sample("y", dist.Poisson(rate), obs=y)

    fit = _fit(model, torch.tensor([1.0, 2.0]))
    with pytest.raises(errors.SupportError, match=r"'y'.*Poisson.*Mend"):
        draws_of(fit, (torch.tensor([1.0, -2.0]),))


@pytest.mark.parametrize("size", [2, 4])
def test_data_of_another_size_name_the_plate(size: int) -> None:
    fit = _fit(_local, torch.ones(3))
    with pytest.raises(errors.PlateSizeError, match=f"'d' of latent 'z' has size {size}.*holds 3"):
        draws_of(fit, (torch.ones(size),))


def test_covariates_of_another_width_name_the_latent() -> None:
    def model(x: Tensor) -> None:
        width = x.shape[-1]
        w = pyro.sample("w", dist.Normal(torch.zeros(width), 1.0).to_event(1))
        with pyro.plate("d", len(x)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=torch.ones(len(x)))

    fit = _fit(model, torch.ones(3, 2))
    with pytest.raises(errors.GuideError, match=r"'w' has the event shape.*3.*Mend"):
        draws_of(fit, (torch.ones(3, 3),))
