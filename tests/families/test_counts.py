# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Families with a fixed count: which family a distribution is in, and counts that none has."""

import pyro.distributions as dist
import pytest
import torch

from pyro_blr import families as f
from pyro_blr.errors import ArgumentError

P = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
WHOLE = (f.Binomial, f.Multinomial)
COUNTED = (*WHOLE, f.NegativeBinomial)
MADE = {
    f.Binomial: lambda n: dist.Binomial(n, P),
    f.NegativeBinomial: lambda n: dist.NegativeBinomial(n, P),
    f.Multinomial: lambda n: dist.Multinomial(n, P),
}

every_family = pytest.mark.parametrize("family", COUNTED, ids=lambda family: family.__name__)


@every_family
def test_a_distribution_gives_its_count(family):
    distribution = MADE[family](10)
    found = f.find_family(distribution)
    assert found == family(10)
    assert found != family(9)
    assert len({found, family(10), family(9)}) == 2
    assert found.distribution(found.natural_of(distribution)).total_count == pytest.approx(10)
    for wrapped in (distribution.mask(False), distribution.expand(distribution.batch_shape)):
        assert f.find_family(wrapped) == family(10)


@every_family
def test_another_count_is_another_family(family):
    with pytest.raises(
        ArgumentError, match=rf"of 10(\.0)? draws .*Mend: use {family.__name__}\(10"
    ):
        family(12).natural_of(MADE[family](10))


@pytest.mark.parametrize("family", [f.Binomial, f.NegativeBinomial])
def test_counts_in_a_tensor_must_agree(family):
    same = MADE[family](torch.tensor([4.0, 4.0, 4.0]))
    assert f.find_family(same) == family(4)
    with pytest.raises(ArgumentError, match=r"from 3.0 to 5.0. Mend: use a family for each count"):
        f.find_family(MADE[family](torch.tensor([3.0, 4.0, 5.0])))


@every_family
@pytest.mark.parametrize("count", [0, -3, float("nan"), float("inf"), 2**53 + 2, 10**400])
def test_counts_that_no_family_has(family, count):
    with pytest.raises(
        ArgumentError, match=rf"{family.__name__} cannot count .*Mend: give one pos"
    ):
        family(count)


@pytest.mark.parametrize("family", WHOLE)
def test_draws_are_whole(family):
    with pytest.raises(ArgumentError, match="positive integer"):
        family(2.5)
    assert f.NegativeBinomial(2.5).total_count == 2.5


def test_one_draw_is_the_unit_family():
    logits = torch.tensor([-3.0, 0.4], dtype=torch.float64)
    for one, unit, natural in (
        (f.Binomial(), f.Bernoulli(), (logits,)),
        (f.NegativeBinomial(), f.Geometric(), (-logits.exp(),)),
        (f.Multinomial(), f.Categorical(), (torch.stack([logits, -logits]),)),
    ):
        for name in ("log_partition", "entropy"):
            expected = getattr(unit, name)(natural)
            torch.testing.assert_close(
                getattr(one, name)(natural), expected, rtol=1e-13, atol=1e-13
            )


def test_supports_know_the_count():
    counts = torch.tensor([0.0, 4.0, 5.0])
    assert f.Binomial(4).support.check(counts).tolist() == [True, True, False]
    assert bool(f.Multinomial(9).support.check(counts))
    assert not bool(f.Multinomial(8).support.check(counts))


def binomial(logits: torch.Tensor) -> dist.Binomial:
    return dist.Binomial(3, logits=logits)


def geometric(logits: torch.Tensor) -> dist.Geometric:
    return dist.Geometric(logits=logits)


def bernoulli(logits: torch.Tensor) -> dist.Bernoulli:
    return dist.Bernoulli(logits=logits)


@pytest.mark.parametrize("make", [bernoulli, binomial, geometric])
def test_reading_the_probabilities_does_not_lose_the_logits(make):
    # torch keeps what it was once asked for; a probability of 1 - 1e-26 is 1.
    for logits in (-60.0, 0.5, 60.0):
        distribution = make(torch.tensor(logits, dtype=torch.float64))
        family = f.find_family(distribution)
        (before,) = family.natural_of(distribution)
        assert bool(distribution.probs.isfinite())
        (after,) = family.natural_of(distribution)
        assert bool(after.isfinite())
        assert torch.equal(after, before)
