# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The tail of importance weights: its known index is found, and what is no tail is named."""

import math

import pytest
import torch
from arviz_stats.base import array_stats
from torch.distributions import Normal, StudentT

from pyro_blr import errors
from pyro_blr.diagnostics import khat_limit, psis

SEEDS = range(5)


@pytest.mark.parametrize("size", [100, 1000, 4000])
@pytest.mark.parametrize("scale", [0.01, 1.0, 3.0])
def test_it_is_arviz_for_tails_that_have_one(size, scale):
    ratios = scale * torch.randn(size)
    found = psis(ratios)
    # Of the opposite sign: array_stats.psislw takes log likelihoods.
    log_weights, khat = array_stats.psislw(-ratios.numpy())
    assert found.khat == pytest.approx(float(khat), abs=1e-9)
    theirs = torch.as_tensor(log_weights)
    expected = theirs - torch.logsumexp(theirs, 0)
    torch.testing.assert_close(found.log_weights, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    "own, target", [(1.0, 0.9), (1.5, 1.0), (2.0, 1.0), (1.0, 0.3), (6.0, 1.0)]
)
def test_the_index_of_student_tails(own, target):
    # q falls like z^-(own + 1), p like z^-(target + 1): k = 1 - target / own.
    q, p = StudentT(own), StudentT(target)
    found = []
    for seed in SEEDS:
        torch.manual_seed(seed)
        z = q.sample((40_000,))
        found.append(psis(p.log_prob(z) - q.log_prob(z)).khat)
    expected = 1 - target / own
    # The fit takes the tail of the draws for its limit far out.
    assert sum(found) / len(found) == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dims", [3, 10])
def test_three_times_too_narrow_is_above_the_limit(seed, dims):
    torch.manual_seed(seed)
    q, p = Normal(0.0, 1.0), Normal(0.0, 3.0)
    z = q.sample((2000, dims))
    found = psis((p.log_prob(z) - q.log_prob(z)).sum(-1))
    assert found.khat > 0.7 >= khat_limit(2000)
    assert not found.is_reliable


def test_in_one_dimension_two_thousand_draws_may_miss_it():
    # Why a verdict does not rest on k-hat alone: its own error is about 0.1 there.
    found = []
    for seed in range(8):
        torch.manual_seed(seed)
        found.append(psis(torch.randn(2000) ** 2 * 4 / 9).khat)
    assert min(found) < 0.5 and sum(found) / 8 > 0.7


@pytest.mark.parametrize("seed", SEEDS)
def test_too_wide_has_bounded_weights(seed):
    torch.manual_seed(seed)
    q, p = Normal(0.0, 2.0), Normal(0.0, 1.0)
    z = q.sample((2000,))
    found = psis(p.log_prob(z) - q.log_prob(z))
    assert found.khat < 0.3 and found.is_reliable


def test_smoothed_weights_are_a_distribution():
    found = psis(2 * torch.randn(1000))
    assert float(found.weights.sum()) == pytest.approx(1.0, abs=1e-12)
    assert 1 <= found.effective_draws <= 1000


def test_the_index_does_not_change_with_a_constant():
    ratios = torch.randn(1000)
    assert psis(ratios + 1e4).khat == pytest.approx(psis(ratios).khat, abs=1e-8)


def test_constant_weights_are_exact_and_have_no_tail():
    found = psis(torch.full((200,), -123.4) + 1e-12 * torch.randn(200))
    assert found.is_constant and found.khat == -math.inf
    assert found.effective_draws == pytest.approx(200)
    assert found.is_reliable


@pytest.mark.parametrize("spread", [1e-5, 1e-3])
def test_weights_that_are_nearly_constant_keep_their_index(spread):
    shape = torch.randn(2000)
    exact, near = psis(0.1 * shape), psis(spread * shape)
    assert not near.is_constant
    # exp(spread z) is affine in z to that order: a Gaussian tail, whatever the spread.
    assert near.khat == pytest.approx(exact.khat, abs=0.1)


def test_largest_weights_that_are_equal_have_no_tail():
    ratios = torch.cat([torch.randn(500) - 5, torch.zeros(500)])
    assert psis(ratios).khat == -math.inf


def test_one_weight_that_holds_everything():
    ratios = torch.randn(1000)
    ratios[3] = 2000.0
    found = psis(ratios)
    assert found.khat == math.inf and not found.is_reliable
    assert found.effective_draws == pytest.approx(1.0)


def test_draws_outside_the_support_have_no_weight():
    ratios = torch.randn(1000)
    ratios[:100] = -math.inf
    found = psis(ratios)
    assert math.isfinite(found.khat) and float(found.weights[:100].sum()) == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_draws_that_are_not_finite(bad):
    ratios = torch.randn(100)
    ratios[7] = bad
    with pytest.raises(errors.NonFiniteError, match=r"1 of 100 .*Mend"):
        psis(ratios)


def test_no_draw_inside_the_support():
    with pytest.raises(errors.NonFiniteError, match="100 of 100"):
        psis(torch.full((100,), -math.inf))


@pytest.mark.parametrize("shape", [(), (10,), (100, 2)])
def test_no_vector_of_draws(shape):
    with pytest.raises(errors.ArgumentError, match="Mend: take more draws"):
        psis(torch.zeros(shape))
