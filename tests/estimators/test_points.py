# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The draws' noise: standard normal whatever its number, in pairs, with exact second moments."""

import math

import pytest
import torch

from pyro_blr.estimators import gaussian_points
from pyro_blr.estimators.points import SOBOL_DIMENSIONS
from tests.oracles import monte_carlo

#: E[e^k] of a standard normal number.
MOMENTS = {2: 1.0, 4: 3.0, 6: 15.0}
SEEDS = 1500


@pytest.mark.parametrize(("count", "dim"), [(1, 1), (2, 3), (4, 2), (7, 1), (10, 20), (64, 3)])
def test_every_point_is_standard_normal_over_the_seeds(count: int, dim: int) -> None:
    """Catches levels that are kept away from 0 and 1 by a share of the number of points: with two
    pairs they would lie in [1/4, 3/4], with a variance of 0.14 in the place of 1."""
    points = torch.stack([gaussian_points(count, dim, s, matched=False) for s in range(SEEDS)])
    for power, moment in MOMENTS.items():
        each = points.pow(power).mean((1, 2))
        monte_carlo.z_test(each.mean(), torch.tensor(moment), each.std() / math.sqrt(SEEDS))
    cross = points[:, :, 0] * points[:, :, -1] if dim > 1 else points[:, :, 0]
    each = cross.mean(1)
    monte_carlo.z_test(each.mean(), torch.tensor(0.0), each.std() / math.sqrt(SEEDS))


@pytest.mark.parametrize("count", [2, 8, 64])
@pytest.mark.parametrize("matched", [False, True])
def test_points_are_antithetic(count: int, matched: bool) -> None:
    points = gaussian_points(count, 3, 5, matched)
    torch.testing.assert_close(points[: count // 2], -points[count // 2 :])


@pytest.mark.parametrize(("count", "dim"), [(4, 1), (12, 3), (64, 16)])
def test_matched_points_have_exact_second_moments(count: int, dim: int) -> None:
    points = gaussian_points(count, dim, 2)
    identity = torch.eye(dim, dtype=torch.float64)
    torch.testing.assert_close(points.mT @ points / count, identity)


@pytest.mark.parametrize("pairs", [2, 8, 32])
def test_matching_biases_fourth_moments_by_no_more_than_it_says(pairs: int) -> None:
    """The documented bias: of independent pairs ``E[e^4] = 3 pairs / (pairs + 2)``, and less of
    quasi-random ones. Catches the claim that matched points have none."""
    points = torch.stack([gaussian_points(2 * pairs, 1, s) for s in range(SEEDS)])
    each = points.pow(4).mean((1, 2))
    error = float(each.std()) / math.sqrt(SEEDS)
    least = 3 * pairs / (pairs + 2)
    assert least - 5 * error < float(each.mean()) < 3 + 5 * error
    if pairs == 2:
        assert float(each.mean()) < 3 - 20 * error  # so that few draws are better left alone


def test_same_seed_same_points_and_another_one_others() -> None:
    assert torch.equal(gaussian_points(8, 2, 3), gaussian_points(8, 2, 3))
    assert not torch.equal(gaussian_points(8, 2, 3), gaussian_points(8, 2, 4))


@pytest.mark.parametrize("dim", [0, SOBOL_DIMENSIONS + 1])
def test_dimensions_that_sobol_has_not(dim: int) -> None:
    assert gaussian_points(4, dim, 0).shape == (4, dim)


@pytest.mark.parametrize("moved", [0, 1, 5])
def test_of_more_columns_than_points_match_those_that_move_are_exact(moved: int) -> None:
    """Their second moments, those with the other columns, and the variances of these."""
    points = gaussian_points(64, 40, seed=3, moved=moved)
    products = points.mT @ points / len(points)
    exact = torch.eye(40, dtype=torch.float64)
    assert points.mean(0).abs().max() < 1e-12
    assert (products[:moved] - exact[:moved]).abs().sum() < 1e-10
    assert (products.diagonal() - 1).abs().max() < 1e-12
