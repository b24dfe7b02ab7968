# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Derivatives along the draws of a low-rank block against quadrature."""

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from pyro_blr.estimators import gaussian_points
from pyro_blr.lifting.low_rank_moments import LowRankMoments
from tests.estimators.gaussian_cases import MEAN, Case, smooth
from tests.oracles import monte_carlo

FACTOR = torch.tensor([[0.5], [0.3]], dtype=torch.float64)
DIAGONAL = torch.tensor([0.11, 0.16], dtype=torch.float64)


def truth() -> tuple[Tensor, ...]:
    """E[f] and its derivatives in m, W and log d: ``2 dE/dC W`` and ``diag(dE/dC) d``."""
    full = (FACTOR @ FACTOR.mT + torch.diag(DIAGONAL)).tolist()
    covariance = cast(Any, tuple(tuple(row) for row in full))
    value, slope, curved = Case(covariance, (2,), lambda c: c, lambda d: d).truth(smooth)
    return value, slope, 2 * curved @ FACTOR, curved.diagonal() * DIAGONAL


@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_derivatives_along_draws(count: int) -> None:
    """Catches noise of W that is not the elements' own, and log d taken for d."""
    rows = []
    for seed in range(max(32, 512 // count)):
        natural = (torch.tensor(MEAN, dtype=torch.float64), FACTOR, DIAGONAL.log())
        moments = LowRankMoments(cast(Any, None), natural)
        draws = moments.draw(gaussian_points(count, 3, seed, matched=False).to(FACTOR.device))
        value = smooth(draws[:, 0], draws[:, 1]).mean()
        rows.append((value.detach(), *torch.autograd.grad(value, moments.leaves)))
    for column, exact in zip(zip(*rows, strict=True), truth(), strict=True):
        stacked = torch.stack(column)
        error = stacked.std(0) / math.sqrt(len(rows))
        monte_carlo.z_test(stacked.mean(0), exact, error, 5.0)
