# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Spellings of a latent addressed by a group index, against E_q log p written by hand."""

import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from tests.checks import engine, expected_log_joint
from tests.spelling_data import (
    GROUP,
    OTHER,
    G,
    N,
    Predict,
    Y,
    assert_close,
    assert_every_factor_exact,
    randn,
)
from tests.spelling_groups import DIFFERENCES, GATHERS, NOISE, group_model
from tests.spelling_operations import OPERATION_GATHERS

GROUP_MEAN, GROUP_SD = randn(G), randn(G).exp()


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


@pytest.mark.parametrize("spelling", DIFFERENCES)
def test_difference_of_two_elements(spelling: str) -> None:
    """Where g = h the difference is the constant 0: its variance is 0, not twice that of u."""
    variance = torch.where(GROUP == OTHER, 0.0, GROUP_SD[GROUP] ** 2 + GROUP_SD[OTHER] ** 2)
    check_groups(DIFFERENCES[spelling], GROUP_MEAN[GROUP] - GROUP_MEAN[OTHER], variance)


def test_average_of_the_group() -> None:
    ones = torch.ones(N)
    variance = GROUP_SD.square().sum() / G**2 * ones
    check_groups(lambda u: u.mean() * ones, GROUP_MEAN.mean() * ones, variance)
