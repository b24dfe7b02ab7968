# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Bounds bound, and weighted moments are right within their errors, where the truth is known."""

import itertools
import math

import pytest
import torch
from torch.distributions import Normal

from pyro_blr import errors
from pyro_blr.diagnostics import divergence_bound, error_bounds, moments, psis

SEEDS = range(10)
#: Targets of q = N(0, 1): their means and sds.
TARGETS = list(itertools.product([0.0, 0.1, 0.5], [0.7, 0.95, 1.0, 1.05, 1.2]))


def drawn(mean, sd, seed, size=2000, dims=1):
    """Draws of q = N(0, 1) and their weights for a target."""
    torch.manual_seed(seed)
    z = torch.randn(size, dims)
    ratios = (Normal(mean, sd).log_prob(z) - Normal(0.0, 1.0).log_prob(z)).sum(-1)
    return z, psis(ratios)


def divergence(mean, sd, dims=1):
    """Rényi's divergence of order 2 of N(mean, sd^2) from N(0, 1), in nats."""
    mixed = 2 - sd**2  # times the target's variance: that of p^2 / q
    return dims * (mean**2 / mixed - math.log(sd * math.sqrt(mixed)))


@pytest.mark.parametrize("mean, sd", TARGETS)
def test_the_divergence_is_bounded_and_the_bound_is_near(mean, sd):
    found = [divergence_bound(drawn(mean, sd, seed)[1]) for seed in SEEDS]
    exact = divergence(mean, sd)
    finite = [f for f in found if math.isfinite(f)]
    # At sd = 1.2 the fourth moment of the weights, which the error is made of, is infinite.
    short = 1.0 if sd < 1.2 else 0.7
    assert sum(f >= short * exact - 1e-9 for f in found) >= 8
    if sd < 1.2 and finite:
        assert sum(finite) / len(finite) < 1.5 * exact + 0.01


@pytest.mark.parametrize("dims", [1, 5])
@pytest.mark.parametrize("mean, sd", TARGETS)
def test_the_bounds_hold(mean, sd, dims):
    for seed in SEEDS:
        z, smoothed = drawn(mean, sd, seed, dims=dims)
        bounds = error_bounds(z, smoothed)
        noise = 4 / math.sqrt(len(z))  # q's own moments are of draws too
        assert (bounds.mean >= abs(mean) - noise).all()
        assert (bounds.sd >= abs(sd - 1) - noise).all()
        # Of two Gaussians with diagonal covariances.
        true = math.sqrt(dims * (mean**2 + (sd - 1) ** 2))
        assert bounds.wasserstein_2 >= true - noise * math.sqrt(dims)
        assert bounds.wasserstein_1 >= math.sqrt(dims) * abs(mean) - noise * math.sqrt(dims)


def test_the_bounds_are_of_use_where_q_is_good():
    z, smoothed = drawn(0.02, 1.01, 0)
    bounds = error_bounds(z, smoothed)
    assert float(bounds.mean) < 0.06 and float(bounds.sd) < 0.06


@pytest.mark.parametrize("dims", [1, 4])
def test_no_bound_where_the_second_moment_is_infinite(dims):
    z, smoothed = drawn(0.0, 3.0, 0, dims=dims)
    bounds = error_bounds(z, smoothed)
    assert smoothed.khat > 0.5 and bounds.divergence == math.inf
    assert bounds.wasserstein_1 == bounds.wasserstein_2 == math.inf
    assert torch.isinf(bounds.mean).all() and torch.isinf(bounds.sd).all()


def test_exact_is_bounded_by_nothing():
    z, smoothed = drawn(0.0, 1.0, 0, dims=2)
    bounds = error_bounds(z, smoothed)
    assert bounds.divergence == 0.0 and bounds.wasserstein_2 == 0.0
    assert float(bounds.mean.max()) == float(bounds.sd.max()) == 0.0


@pytest.mark.parametrize("mean, sd", [(m, s) for m, s in TARGETS if s < 1.2])
def test_weighted_moments_are_right_within_their_errors(mean, sd):
    shifts, widenings = [], []
    for seed in range(40):
        z, smoothed = drawn(mean, sd, seed)
        if not smoothed.is_reliable:
            continue
        found = moments(z[:, 0], smoothed.weights)
        if smoothed.is_constant:
            assert float(found.shift_error) < 1e-12 and float(found.widening_error) < 1e-12
            continue
        # sd is of the draws as well, so that the truth is in its units.
        shifts.append(float((found.shift - mean) / found.shift_error))
        widenings.append(float((found.widening - math.log(sd)) / found.widening_error))
    for scores in (torch.tensor(shifts), torch.tensor(widenings)):
        if len(scores):
            assert scores.mean().abs() < 4 / math.sqrt(len(scores)) + 0.3
            assert 0.5 < scores.square().mean().sqrt() < 1.6


def test_elements_keep_their_shape():
    z = torch.randn(500, 2, 3)
    smoothed = psis(0.1 * torch.randn(500))
    assert moments(z, smoothed.weights).shift.shape == (2, 3)
    assert error_bounds(z, smoothed).sd.shape == (2, 3)


def test_an_element_that_does_not_vary_is_no_number():
    z = torch.stack([torch.randn(500), torch.ones(500)], -1)
    found = moments(z, psis(0.1 * torch.randn(500)).weights)
    assert torch.isfinite(found.shift[0]) and torch.isnan(found.shift[1])


def test_draws_and_weights_of_other_lengths():
    smoothed = psis(torch.randn(100))
    for call in (lambda v: moments(v, smoothed.weights), lambda v: error_bounds(v, smoothed)):
        for values in (torch.zeros(50, 2), torch.tensor(0.0)):
            with pytest.raises(errors.ShapeError, match=r"\(100,\).*Mend"):
                call(values)
