# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Spellings of a latent addressed by a group index, against E_q log p written by hand."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from pyro.ops.indexing import Vindex
from torch import Tensor

from tests.checks import engine, expected_log_joint
from tests.spelling_data import (
    GROUP,
    ONE_HOT,
    OTHER,
    G,
    N,
    Predict,
    Y,
    assert_close,
    assert_every_factor_exact,
    randn,
)
from tests.spelling_operations import OPERATION_GATHERS

GROUP_MEAN, GROUP_SD = randn(G), randn(G).exp()
NOISE = 0.7
GATHERS: dict[str, Predict] = {
    "u[g]": lambda u: u[GROUP],
    "u[g.tolist()]": lambda u: u[GROUP.tolist()],
    "index_select": lambda u: u.index_select(-1, GROUP),
    "torch.index_select": lambda u: torch.index_select(u, 0, GROUP),
    "gather": lambda u: u.gather(0, GROUP),
    "torch.take": lambda u: torch.take(u, GROUP),
    "Vindex": lambda u: Vindex(u)[..., GROUP],
    "u[..., g]": lambda u: u[..., GROUP],
    "one-hot": lambda u: ONE_HOT @ u,
    "one-hot product": lambda u: (ONE_HOT * u).sum(-1),
    "F.embedding": lambda u: F.embedding(GROUP, u.unsqueeze(-1)).squeeze(-1),
}


def group_model(predict: Predict) -> Callable[[], None]:
    def model() -> None:
        with pyro.plate("groups", G):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(predict(u), NOISE), obs=Y)

    return model


def group_by_hand(mean: Tensor, variance: Tensor) -> Tensor:
    """E_q log p of the group model where the predictor has that mean and variance per row."""
    log_2pi = math.log(2 * math.pi)
    squares = (Y - mean) ** 2 + variance
    likelihood = (-0.5 * log_2pi - math.log(NOISE) - 0.5 * squares / NOISE**2).sum()
    return likelihood - 0.5 * (log_2pi + GROUP_MEAN**2 + GROUP_SD**2).sum()


def check_groups(predict: Predict, mean: Tensor, variance: Tensor) -> None:
    q = {"u": dist.Normal(GROUP_MEAN, GROUP_SD)}
    blr, _ = engine(group_model(predict), q, blocks="site")
    assert_every_factor_exact(blr)
    assert_close(expected_log_joint(blr, q), group_by_hand(mean, variance))


@pytest.mark.parametrize("spelling", GATHERS | OPERATION_GATHERS)
def test_gather(spelling: str) -> None:
    predict = (GATHERS | OPERATION_GATHERS)[spelling]
    check_groups(predict, GROUP_MEAN[GROUP], GROUP_SD[GROUP] ** 2)


DIFFERENCES: dict[str, Predict] = {
    "u[g] - u[h]": lambda u: u[GROUP] - u[OTHER],
    "torch.sub": lambda u: torch.sub(u[GROUP], u[OTHER]),
    "stacked": lambda u: u[torch.stack([GROUP, OTHER])].mul(torch.tensor([[1.0], [-1.0]])).sum(0),
    "one-hot": lambda u: (ONE_HOT - F.one_hot(OTHER, G)) @ u,
    "Vindex": lambda u: Vindex(u)[..., GROUP] - Vindex(u)[..., OTHER],
}


@pytest.mark.parametrize("spelling", DIFFERENCES)
def test_difference_of_two_elements(spelling: str) -> None:
    """Where g = h the difference is the constant 0: its variance is 0, not twice that of u."""
    variance = torch.where(GROUP == OTHER, 0.0, GROUP_SD[GROUP] ** 2 + GROUP_SD[OTHER] ** 2)
    check_groups(DIFFERENCES[spelling], GROUP_MEAN[GROUP] - GROUP_MEAN[OTHER], variance)


def test_average_of_the_group() -> None:
    ones = torch.ones(N)
    variance = GROUP_SD.square().sum() / G**2 * ones
    check_groups(lambda u: u.mean() * ones, GROUP_MEAN.mean() * ones, variance)
