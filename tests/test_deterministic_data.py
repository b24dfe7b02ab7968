# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Real data under one joint Gaussian: every factor deterministic, and a loss that never rises."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from benchmarks.stan import arguments_of
from benchmarks.stan_models import EXAMPLES
from benchmarks.stan_models.database import find
from pyro_blr import BLR
from pyro_blr.guides import AutoNatural, AutoNaturalMultivariateNormal

pytestmark = pytest.mark.data

#: Nats a datum by which a loss may rise where a quadrature rule gives way to another one.
RULES = 1e-8

POSTERIORS = [
    "wells_dist100_model",
    "radon_hierarchical_intercept_centered",
    "radon_variable_intercept_slope_noncentered",
    pytest.param("election88_full", marks=pytest.mark.slow),
]
SETS = ["concrete", "energy", "yacht", "wine-quality-red", "power-plant"]


def assert_never_rises(blr: BLR, args: tuple[Any, ...], data: int, steps: int) -> None:
    tiers = {factor.tier for factor in blr.explain(*args).factors}
    assert tiers <= {"exact", "quadrature"}
    losses = blr.fit(*args, max_steps=steps).losses
    slack = RULES * data + 1e-12 * abs(losses[0])
    rises = [new - old for old, new in pairwise(losses)]
    assert max(rises) <= slack


@pytest.mark.parametrize("name", POSTERIORS)
def test_posteriors(name: str, data_folder: Path) -> None:
    (example,) = [e for e in EXAMPLES if e.name == name]
    args = arguments_of(example, find(data_folder))
    blr = BLR(example.model, AutoNaturalMultivariateNormal(example.model))
    data = max(a.numel() for a in args if isinstance(a, Tensor))
    assert_never_rises(blr, args, data, steps=25)


def regression(X: Tensor, y: Tensor) -> None:
    sigma = pyro.sample("sigma", dist.HalfNormal(1.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(X.shape[1]), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, sigma), obs=y)


@pytest.mark.parametrize("guide", [AutoNatural, AutoNaturalMultivariateNormal])
@pytest.mark.parametrize("name", SETS)
def test_uci_regression(name: str, guide: Callable[..., Any], data_folder: Path) -> None:
    held = np.load(data_folder / "uci" / f"{name}.npz")
    X, y = (torch.tensor(held[k], dtype=torch.float64) for k in ("X", "y"))
    X, y = ((t - t.mean(0)) / t.std(0) for t in (X, y))
    assert_never_rises(BLR(regression, guide(regression)), (X, y), len(y), steps=40)
