# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Other conjugate structures are exact too, and agree with Monte Carlo of the real model."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from tests.checks import engine, expected_log_joint
from tests.oracles import monte_carlo
from tests.spelling_data import assert_close, assert_every_factor_exact
from tests.spelling_maps import MAPS
from tests.spelling_structures import (
    STRUCTURES,
    coin,
    coin_as_categories,
    coin_backwards,
    gaussian_by_covariance,
    gaussian_by_precision,
    gaussian_by_scale_tril,
)


def random_q(model: Callable[[], None], seed: int) -> dict[str, Any]:
    """A random member of the prior's family for each latent, near enough for Monte Carlo."""
    generator = torch.Generator().manual_seed(seed)
    q: dict[str, Any] = {}
    trace = poutine.trace(model).get_trace()
    for name in trace.stochastic_nodes:
        site = trace.nodes[name]
        if type(site["fn"]).__name__ == "_Subsample":
            continue
        shape = site["value"].shape
        noise = torch.randn(shape, generator=generator)
        spread = torch.rand(shape, generator=generator)
        base = site["fn"]
        while hasattr(base, "base_dist"):
            base = base.base_dist
        if isinstance(base, torch.distributions.Gamma):
            q[name] = dist.Gamma(5 + 5 * spread, 4 + noise.abs())
        elif isinstance(base, torch.distributions.Beta):
            q[name] = dist.Beta(2 + 3 * spread, 2 + noise.abs())
        elif isinstance(base, torch.distributions.Dirichlet):
            q[name] = dist.Dirichlet(1 + 3 * spread)
        elif site["fn"].event_dim:
            root = 0.3 * torch.randn(*shape, shape[-1], generator=generator)
            cov = root @ root.mT + 0.05 * torch.eye(shape[-1])
            q[name] = dist.MultivariateNormal(0.5 * noise, covariance_matrix=cov)
        else:
            q[name] = dist.Normal(0.5 * noise, 0.2 + 0.5 * spread)
    return q


@pytest.mark.parametrize("model", STRUCTURES + MAPS, ids=lambda m: m.__name__)
def test_structure_agrees_with_monte_carlo(model: Callable[[], None]) -> None:
    q = random_q(model, seed=3)
    blr, _ = engine(model, q, blocks="site")
    assert_every_factor_exact(blr)
    value = expected_log_joint(blr, q)
    found = monte_carlo.expected_log_joint(model, (), q, num_draws=5000, seed=4)
    monte_carlo.z_test(value, found.value, found.standard_error, bound=5)


@pytest.mark.parametrize(
    "spellings",
    [
        (coin, coin_backwards, coin_as_categories),
        (gaussian_by_precision, gaussian_by_covariance, gaussian_by_scale_tril),
    ],
    ids=["coin", "gaussian"],
)
def test_spellings_of_one_model_agree(spellings: tuple[Callable[[], None], ...]) -> None:
    q = random_q(spellings[0], seed=5)
    values = [expected_log_joint(engine(m, q, blocks="site")[0], q) for m in spellings]
    for value in values[1:]:
        assert_close(value, values[0])
