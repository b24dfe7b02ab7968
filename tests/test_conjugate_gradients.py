# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Conjugate gradients against dense algebra: positive, singular, indefinite, NaN; with a metric."""

import math

import pytest
import torch
from torch import Tensor

from pyro_blr.conjugate_gradients import Solution, Vector, solve

SIZES = (3, 4)
D = sum(SIZES)


def _randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _split(vector: Tensor) -> list[Tensor]:
    return list(vector.split(SIZES))


def _metric(seed: int) -> Tensor:
    root = _randn(seed, D, D)
    return root @ root.T + torch.eye(D)


def _with_spectrum(seed: int, values: Tensor, metric: Tensor) -> Tensor:
    """A matrix whose eigenvalues in a metric are given."""
    root = torch.linalg.cholesky(metric)
    vectors = torch.linalg.qr(_randn(seed, D, D))[0]
    return root @ vectors @ values.diag() @ vectors.T @ root.T


def _solve(matrix: Tensor, target: Tensor, metric: Tensor | None, most: int = 50) -> Solution:
    def precondition(vector: Vector) -> list[Tensor]:
        assert metric is not None
        return _split(torch.linalg.solve(metric, torch.cat(list(vector))))

    return solve(
        lambda v: _split(matrix @ torch.cat(list(v))),
        _split(target),
        most=most,
        relative=1e-10,
        precondition=None if metric is None else precondition,
    )


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_conditioned", [False, True])
def test_a_positive_system_is_solved(seed: int, is_conditioned: bool) -> None:
    matrix, target = _metric(seed), _randn(seed + 10, D)
    found = _solve(matrix, target, _metric(seed + 20) if is_conditioned else None)
    assert found.is_solved and found.negative is None and found.curvature == math.inf
    expected = torch.linalg.solve(matrix, target)
    torch.testing.assert_close(torch.cat(found.value), expected, rtol=1e-8, atol=1e-8)


def test_few_eigenvalues_in_the_metric_take_few_iterations() -> None:
    metric = 100 * _metric(1)
    values = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 5.0])
    found = _solve(_with_spectrum(2, values, metric), _randn(3, D), metric)
    assert found.is_solved and found.iterations == 2


def test_a_singular_system_has_the_solution_of_least_norm() -> None:
    root = _randn(4, D, 3)
    target = root @ _randn(5, 3)
    found = _solve(root @ root.T, target, None)
    assert found.is_solved
    expected = torch.linalg.pinv(root @ root.T) @ target
    torch.testing.assert_close(torch.cat(found.value), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("is_conditioned", [False, True])
def test_negative_curvature_is_met_and_measured(seed: int, is_conditioned: bool) -> None:
    metric = _metric(seed + 20) if is_conditioned else torch.eye(D)
    values = torch.tensor([-0.3, 0.5, 1.0, 1.0, 2.0, 3.0, 4.0])
    matrix, target = _with_spectrum(seed, values, metric), _randn(seed + 10, D)
    found = _solve(matrix, target, metric if is_conditioned else None)
    assert not found.is_solved and found.negative is not None
    along = torch.cat(found.negative)
    share = float(along @ matrix @ along / (along @ metric @ along))
    assert found.curvature == pytest.approx(share, rel=1e-9)
    assert -0.3 <= share <= 0
    # What was solved before it goes down: it is zero, or a direction of descent.
    solved = torch.cat(found.value)
    assert not solved.any() or float(solved @ target) > 0


def test_too_few_iterations_solve_nothing() -> None:
    assert not _solve(_metric(1), _randn(2, D), None, most=1).is_solved


def test_nothing_is_solved_at_once() -> None:
    found = _solve(_metric(1), torch.zeros(D), None)
    assert found.is_solved and found.iterations == 0


@pytest.mark.parametrize("is_target", [False, True])
def test_nan_is_no_solution_and_no_curvature(is_target: bool) -> None:
    matrix, target = _metric(1), _randn(2, D)
    (target if is_target else matrix)[0] = math.nan
    found = _solve(matrix, target, None)
    assert not found.is_solved
    assert not found.curvature <= 0


def test_a_metric_that_is_not_positive_solves_nothing() -> None:
    assert not _solve(_metric(1), _randn(2, D), -torch.eye(D)).is_solved
