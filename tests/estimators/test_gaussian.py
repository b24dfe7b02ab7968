# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Bonnet's and Price's estimates against quadrature, for any number of draws of any kind."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyro_blr.estimators import (
    Curvature,
    bonnet_price,
    exact_hessian,
    gaussian_points,
    probed_hessian,
    stein_hessian,
)
from tests.estimators.gaussian_cases import CASES, Case, kinked, smooth, value_of
from tests.oracles import monte_carlo

#: Draws for each test: enough that a factor of 2 is some tens of standard errors.
TOTAL = 256
CURVATURES: dict[str, Curvature] = {
    "exact": exact_hessian,
    "probed": probed_hessian,
    "stein": stein_hessian,
}

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_curvature = pytest.mark.parametrize("curvature", CURVATURES.values(), ids=CURVATURES)


def independent(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 2, dtype=torch.float64, generator=generator)


def quasi_random(count: int, seed: int) -> Tensor:
    return gaussian_points(count, 2, seed, matched=False)


def once(
    case: Case,
    function: Callable[[Tensor, Tensor], Tensor],
    curvature: Curvature,
    noise: Tensor,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    variable = case.variable(noise, dtype, seed)
    estimate = bonnet_price(value_of(function, variable), [variable], [curvature])
    slopes = torch.autograd.grad(estimate, (variable.mean, variable.covariance))
    return estimate.detach(), slopes[0].double(), slopes[1].double()


def agrees(
    case: Case,
    function: Callable[[Tensor, Tensor], Tensor],
    curvature: Curvature,
    points: Callable[[int, int], Tensor],
    count: int,
    dtype: torch.dtype = torch.float64,
) -> None:
    repeats = max(32, TOTAL // count)
    each = [once(case, function, curvature, points(count, s), dtype, s) for s in range(repeats)]
    slack = 1e-9 if dtype == torch.float64 else 1e-5
    for column, truth in zip(zip(*each, strict=True), case.truth(function), strict=True):
        stacked = torch.stack(column)
        error = stacked.std(0) / math.sqrt(repeats)
        monte_carlo.z_test(stacked.mean(0), truth, error, 5.0, slack)


@every_case
@every_curvature
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_independent_draws(case: Case, curvature: Curvature, count: int) -> None:
    """Catches Price's half left out, a sum over draws in the place of the mean, rows that share a
    covariance counted once, signs of probes that do not cancel between elements, or are the same
    for all seeds."""
    agrees(case, smooth, curvature, independent, count)


@every_case
@every_curvature
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_quasi_random_draws_over_scramblings(case: Case, curvature: Curvature, count: int) -> None:
    """Catches points that are no draws of q, and an odd one whose twin is counted."""
    agrees(case, smooth, curvature, quasi_random, count)


@every_case
@pytest.mark.parametrize("count", [2, 7])
def test_kinks_in_steins_form(case: Case, count: int) -> None:
    """Catches a Hessian along the draws, which is 0 here, and another precision than q's."""
    agrees(case, kinked, stein_hessian, quasi_random, count)


def test_a_hessian_along_the_draws_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        agrees(CASES["vector"], kinked, exact_hessian, quasi_random, 7)


@every_curvature
def test_float32(curvature: Curvature) -> None:
    """Catches a derivative in another dtype than its leaf's."""
    agrees(CASES["vector"], smooth, curvature, quasi_random, 64, torch.float32)


@every_case
@pytest.mark.parametrize("curvature", [exact_hessian, probed_hessian], ids=["exact", "probed"])
def test_a_quadratic_has_no_error_at_one_pair(case: Case, curvature: Curvature) -> None:
    """Bonnet's mean gradient over a pair and Price's constant Hessian are exact. Catches noise that
    is not in pairs, and probes whose signs couple the elements of one event."""

    def quadratic(a: Tensor, b: Tensor) -> Tensor:
        return 0.7 * a * a - 0.3 * b * b + 0.2 * a - b

    found = once(case, quadratic, curvature, quasi_random(2, 0))
    for slope, truth in zip(found[1:], case.truth(quadratic)[1:], strict=True):
        torch.testing.assert_close(slope, truth, rtol=1e-9, atol=1e-9)


def test_a_linear_function_has_no_hessian() -> None:
    for curvature in (exact_hessian, probed_hessian):
        variable = CASES["vector"].variable(quasi_random(4, 0))
        estimate = bonnet_price(variable.draws.sum(-1), [variable], [curvature])
        slopes = torch.autograd.grad(
            estimate, (variable.mean, variable.covariance), allow_unused=True
        )
        assert slopes[1] is None
        torch.testing.assert_close(slopes[0], torch.ones(2, dtype=torch.float64))
