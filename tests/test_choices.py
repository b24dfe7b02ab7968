# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Choices among latents by data: one scale a group is exact however it is written."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from tests.checks import engine, factor_of

N = 12
GROUP = torch.arange(N) % 2
Y = torch.sin(torch.arange(N * 1.0)) + 0.3
X = torch.cos(torch.arange(N * 2.0))[::2]
WEIGHT = torch.where(GROUP == 0, X.abs() + 0.1, 0.0)  # 0 where it is not chosen

Scale = Callable[[Tensor, Tensor], Any]

SPELLINGS: dict[str, Scale] = {
    "where": lambda a, b: torch.where(GROUP == 0, a, b).rsqrt(),
    "where the other way round": lambda a, b: torch.where(GROUP == 1, b, a) ** -0.5,
    "method where": lambda a, b: a.where(GROUP == 0, b).rsqrt(),
    "where of scales": lambda a, b: torch.where(GROUP == 0, a.rsqrt(), b.rsqrt()),
    "stack and index": lambda a, b: torch.stack([a, b])[GROUP].rsqrt(),
    "index after the root": lambda a, b: torch.stack([a, b]).rsqrt()[GROUP],
    "cat": lambda a, b: torch.cat([a[None], b[None]]).rsqrt()[GROUP],
    "sum of products with masks": lambda a, b: (a * (GROUP == 0) + b * (GROUP == 1)).rsqrt(),
    "masked_fill": lambda a, b: (a * torch.ones(N)).masked_fill(GROUP == 1, b).rsqrt(),
}


def model_of(scale: Scale) -> Callable[[], None]:
    def model() -> None:
        a = pyro.sample("a", dist.Gamma(2.0, 1.0))
        b = pyro.sample("b", dist.Gamma(3.0, 2.0))
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(0.2, scale(a, b)), obs=Y)

    return model


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_one_precision_a_group_is_exact(spelling: str) -> None:
    blr, guide = engine(model_of(SPELLINGS[spelling]), {})
    factor = factor_of(blr, "y")
    assert (factor.tier, factor.conjugate) == ("exact", True), factor.reason
    blr.step()
    for name, group, prior in (("a", 0, (2.0, 1.0)), ("b", 1, (3.0, 2.0))):
        residuals = (Y - 0.2)[group == GROUP]
        posterior = guide.marginal(name)
        shape = prior[0] + len(residuals) / 2
        assert posterior.concentration.item() == pytest.approx(shape, rel=1e-10)
        rate = prior[1] + residuals.square().sum().item() / 2
        assert posterior.rate.item() == pytest.approx(rate, rel=1e-10)


def test_a_constant_in_the_place_of_a_latent() -> None:
    blr, guide = engine(model_of(lambda a, b: torch.where(GROUP == 0, a, 4.0).rsqrt() * b**0), {})
    assert factor_of(blr, "y").tier == "exact"
    blr.step()
    residuals = (Y - 0.2)[GROUP == 0]
    rate = 1.0 + residuals.square().sum().item() / 2
    assert guide.marginal("a").rate.item() == pytest.approx(rate, rel=1e-10)


def test_what_is_not_chosen_may_be_0() -> None:
    """log(0) at the places of the other piece must not reach the expectation."""
    blr, guide = engine(model_of(lambda a, b: torch.where(GROUP == 0, a * WEIGHT, b).rsqrt()), {})
    assert factor_of(blr, "y").tier == "exact"
    blr.step()
    residuals, weights = (Y - 0.2)[GROUP == 0], WEIGHT[GROUP == 0]
    rate = 1.0 + (weights * residuals.square()).sum().item() / 2
    assert guide.marginal("a").rate.item() == pytest.approx(rate, rel=1e-10)


def test_terms_that_overlap_are_no_choice() -> None:
    blr, _ = engine(model_of(lambda a, b: (a * (GROUP == 0) + b * (GROUP >= 0)).rsqrt()), {})
    assert factor_of(blr, "y").tier != "exact"
