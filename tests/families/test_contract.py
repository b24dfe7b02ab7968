# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The contract of a family, run over every row of the table."""

import inspect
import math
import re

import pytest
import torch
from torch import Tensor
from torch.autograd import grad, gradcheck, gradgradcheck
from torch.distributions import kl_divergence

from pyro_blr.families import registered_families
from tests.families.cards import CARDS, HEADINGS
from tests.families.contract import ROWS, Row, round_trip_bound
from tests.families.divergences import KLS

# Of formulas without cancellation at parameters of moderate size: some tens of roundings.
RTOL = {torch.float64: 1e-12, torch.float32: 3e-4}
BATCHES = ((), (3,), (2, 3))

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.family.name)
every_batch = pytest.mark.parametrize("batch", BATCHES, ids=str)
every_dtype = pytest.mark.parametrize("dtype", RTOL, ids=lambda dtype: str(dtype)[6:])


def close(actual: Tensor, expected: Tensor, rtol: float, atol: float | None = None) -> None:
    """Equal in shape and dtype, and to rtol of max(1, |expected|)."""
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol if atol is None else atol)


def all_close(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...], rtol: float) -> None:
    for a, e in zip(actual, expected, strict=True):
        close(a, e, rtol)


def leaves(natural: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.clone().requires_grad_() for tensor in natural)


def direction(row: Row, batch: tuple[int, ...]) -> tuple[Tensor, ...]:
    """A random covector (or direction), symmetric in its matrix blocks."""
    like = row.random(batch, seed=7)
    generator = torch.Generator().manual_seed(8)
    noise = tuple(torch.randn(x.shape, generator=generator, dtype=x.dtype) for x in like)
    return row.family.symmetrize(noise)


def test_every_registered_family_has_a_row():
    assert {type(family) for family in registered_families()} <= {type(r.family) for r in ROWS}
    assert {type(row.family) for row in ROWS} == set(CARDS)


@every_row
def test_docstring_is_a_card_of_six_lines(row):
    lines = re.findall(r"^- ([a-z -]+):", inspect.getdoc(type(row.family)), re.MULTILINE)
    assert tuple(lines) == HEADINGS


@every_row
@every_batch
def test_card(row, batch):
    family, natural = row.family, row.random(batch)
    distribution = family.distribution(natural)
    value = family.sample(natural)
    card = CARDS[type(family)](distribution, value)
    close(family.log_base_measure(value).double(), card.log_base_measure, 1e-12)
    all_close(family.sufficient_statistics(value, natural), card.statistics, 1e-12)
    all_close(natural, card.natural, 1e-11)
    all_close(family.mean_params(natural), card.mean_params, 1e-11)
    close(family.log_partition(natural), card.log_partition, 1e-11)
    close(family.entropy(natural), card.entropy, 1e-11)


@every_row
@every_batch
@every_dtype
def test_log_prob_is_inner_product_less_log_partition(row, batch, dtype):
    family, natural = row.family, row.random(batch, dtype)
    value = family.sample(natural, (5,))
    expected = family.distribution(natural).log_prob(value)
    statistics = family.sufficient_statistics(value, natural)
    identity = family.inner(natural, statistics) - family.log_partition(natural)
    # Draws near an end of the support, such as 1 - 1e-16 from a Beta, have large log densities.
    rtol = 10 * RTOL[dtype]
    density = family.log_prob(natural, value)
    close(identity + family.log_base_measure(value), density, rtol)
    close(density, expected, max(rtol, row.log_prob_rtol))
    assert bool(family.distribution(natural).support.check(value).all())


@every_row
@every_batch
@every_dtype
def test_round_trip_through_mean_params(row, batch, dtype):
    family, natural = row.family, row.random(batch, dtype)
    mean = family.mean_params(natural)
    back = family.natural(mean)
    for actual, expected, bound in zip(back, natural, round_trip_bound(row, natural), strict=True):
        assert actual.dtype == dtype
        assert actual.shape == expected.shape
        assert bool(((actual - expected).abs() <= bound).all()), (actual - expected, bound)
    all_close(family.mean_params(back), mean, RTOL[dtype])


@every_row
@every_batch
@every_dtype
def test_round_trip_through_distribution(row, batch, dtype):
    family, natural = row.family, row.random(batch, dtype)
    distribution = family.distribution(natural)
    assert distribution.batch_shape == batch
    assert len(distribution.event_shape) == family.event_dim
    assert isinstance(distribution, family.distribution_type)
    all_close(family.natural_of(distribution), natural, RTOL[dtype])


@every_row
@every_batch
@every_dtype
def test_kl_is_torch_kl_and_bregman_divergence(row, batch, dtype):
    family = row.family
    q, p = row.random(batch, dtype, seed=0), row.random(batch, dtype, seed=1)
    kl = family.kl(q, p)
    textbook = KLS.get(type(family), kl_divergence)
    expected = textbook(family.distribution(q), family.distribution(p))
    close(kl, expected, 10 * RTOL[dtype])
    difference = tuple(a - b for a, b in zip(q, p, strict=True))
    bregman = family.log_partition(p) - family.log_partition(q)
    close(kl, bregman + family.inner(difference, family.mean_params(q)), 10 * RTOL[dtype])
    assert bool((kl >= 0).all())


@every_row
@every_batch
@every_dtype
def test_entropy(row, batch, dtype):
    family, natural = row.family, row.random(batch, dtype)
    entropy = family.entropy(natural)
    distribution = family.distribution(natural)
    try:
        expected = distribution.entropy()
    except NotImplementedError:  # torch has none for it
        expected = CARDS[type(family)](distribution, family.sample(natural)).entropy.to(dtype)
    assert entropy.dtype == dtype
    close(entropy, expected.to(dtype), RTOL[dtype])
    mean = family.mean_params(natural)
    definition = family.log_partition(natural) - family.inner(natural, mean)
    close(entropy, definition - family.expected_log_base_measure(natural), RTOL[dtype])


@every_row
@every_batch
def test_mean_params_are_the_gradient_of_the_log_partition(row, batch):
    family = row.family
    natural = leaves(row.random(batch))
    all_close(
        grad(family.log_partition(natural).sum(), natural), family.mean_params(natural), 1e-12
    )


@every_row
@every_batch
def test_entropy_gradient_is_minus_fisher_natural(row, batch):
    # dH/dmean = -natural for h = 1, so dH/dnatural = -F natural; d E[log h] comes on top.
    family = row.family
    natural = leaves(row.random(batch))
    constant = tuple(tensor.detach() for tensor in natural)
    paired = family.inner(family.mean_params(natural), constant)
    total = family.entropy(natural) + paired + family.expected_log_base_measure(natural)
    all_close(grad(total.sum(), natural), tuple(torch.zeros_like(x) for x in natural), 1e-11)


@every_row
@every_batch
def test_fisher_is_the_hessian_and_inverse_fisher_inverts_it(row, batch):
    family = row.family
    natural = leaves(row.random(batch))
    vector = direction(row, batch)
    mean = family.mean_params(natural)
    fisher_vector = grad(family.inner(mean, vector).sum(), natural)
    gradient = grad(family.log_partition(natural).sum(), natural, create_graph=True)
    hessian_vector = grad(family.inner(gradient, vector).sum(), natural)
    all_close(fisher_vector, hessian_vector, 1e-11)
    all_close(family.fisher(natural, vector), hessian_vector, 1e-11)
    all_close(family.inverse_fisher(natural, fisher_vector), vector, 1e-10)


@every_row
def test_inverse_fisher_in_float32(row):
    family = row.family
    natural, vector = row.random((4,)), direction(row, (4,))
    exact = family.inverse_fisher(natural, vector)
    single = family.inverse_fisher(
        tuple(x.float() for x in natural), tuple(x.float() for x in vector)
    )
    for actual, expected in zip(single, exact, strict=True):
        assert actual.dtype == torch.float32
        scale = expected.abs().max().item()
        close(actual.double() / scale, expected / scale, 1e-3)


@every_row
def test_mean_params_are_twice_differentiable(row):
    family = row.family
    natural = leaves(row.random((2,)))

    def mean_params(*free: Tensor) -> tuple[Tensor, ...]:
        return family.mean_params(family.symmetrize(free))

    assert gradcheck(mean_params, natural)
    assert gradgradcheck(mean_params, natural)


@every_row
@every_batch
def test_in_domain(row, batch):
    family, natural = row.family, row.random(batch)
    inside = family.in_domain(natural)
    assert inside.shape == batch
    assert inside.dtype == torch.bool
    assert bool(inside.all())
    for block in range(len(natural)):
        for bad in (math.nan, math.inf, -math.inf):
            broken = tuple(tensor.clone() for tensor in natural)
            broken[block].view(-1)[-1] = bad
            expected = torch.ones(batch, dtype=torch.bool)
            expected.view(-1)[-1] = False
            assert torch.equal(family.in_domain(broken), expected), (block, bad)


@every_row
def test_just_outside_the_domain(row):
    for natural in row.outside:
        assert not bool(row.family.in_domain(natural)), natural


def test_multivariate_normal_outside_its_domain_is_nan():
    # A half-finished Cholesky factor is finite: it must not pass for a result.
    (row,) = (row for row in ROWS if row.family.name == "MultivariateNormal")
    for natural in row.outside:
        for result in (
            *row.family.mean_params(natural),
            row.family.entropy(natural),
            row.family.log_partition(natural),
            row.family.kl(row.outside[0], natural),
        ):
            assert bool(result.isnan().all())


@every_row
def test_sample_moments(row):
    family, natural = row.family, row.random((3,))
    number = 20_000
    draws = family.sample(natural, (number,))
    assert not draws.requires_grad
    statistics = family.sufficient_statistics(draws, natural)
    for drawn, expected in zip(statistics, family.mean_params(natural), strict=True):
        error = drawn.std(0) / math.sqrt(number)
        assert bool(((drawn.mean(0) - expected).abs() < 5 * error).all())


@every_row
def test_rsample_gradient_is_the_fisher_matrix(row):
    # d/dnatural E[<v, T(z)>] = F v, from one gradient a draw: catches a draw that ignores a
    # parameter, or one with the right law and the wrong derivative.
    family, number = row.family, 20_000
    if not family.has_rsample:
        with pytest.raises(NotImplementedError, match="no differentiable draws"):
            family.rsample(row.random())
        return
    natural, vector = row.random(), direction(row, ())
    each = leaves(family.expand(natural, (number,)))
    value = family.rsample(each)
    statistics = family.sufficient_statistics(value, each)
    gradients = grad(family.inner(statistics, vector).sum(), each)
    one = leaves(natural)
    fisher_vector = grad(family.inner(family.mean_params(one), vector).sum(), one)
    gradients, fisher_vector = family.symmetrize(gradients), family.symmetrize(fisher_vector)
    for drawn, expected in zip(gradients, fisher_vector, strict=True):
        error = drawn.std(0) / math.sqrt(number) + 1e-14  # of a gradient that is no random number
        assert bool(((drawn.mean(0) - expected).abs() < 5 * error).all())
    draws = family.rsample(natural, (number,))
    for drawn, expected in zip(
        family.sufficient_statistics(draws, natural), family.mean_params(natural), strict=True
    ):
        error = drawn.std(0) / math.sqrt(number)
        assert bool(((drawn.mean(0) - expected).abs() < 5 * error).all())


@every_row
def test_batch_elements_are_independent(row):
    family, natural = row.family, row.random((2, 3))
    assert family.batch_shape(natural) == (2, 3)
    one = family.index(natural, (1, 2))
    assert family.batch_shape(one) == ()
    close(family.entropy(one), family.entropy(natural)[1, 2], 1e-14)
    all_close(
        family.natural(family.mean_params(one)),
        tuple(x[1, 2] for x in family.natural(family.mean_params(natural))),
        1e-13,
    )
    expanded = family.expand(one, (4, 2))
    assert family.batch_shape(expanded) == (4, 2)
    close(family.log_partition(expanded), family.log_partition(one).expand(4, 2), 1e-14)


@every_row
def test_a_block_that_the_batch_shares_broadcasts(row):
    # Such as one covariance for a whole plate, which must not be expanded along it.
    family, natural = row.family, row.random((3,))
    for k in range(len(natural)):
        # Equal elements: a shared block of one member beside others may leave the domain.
        shared = tuple(x[0] if i == k else x[:1].expand_as(x) for i, x in enumerate(natural))
        full = family.expand(shared, (3,))
        value = family.sample(full)
        assert family.batch_shape(full) == (3,)
        for method in (family.entropy, family.log_partition, family.in_domain):
            torch.testing.assert_close(method(shared).expand(3), method(full))
        torch.testing.assert_close(family.kl(shared, full), torch.zeros(3), rtol=0, atol=1e-12)
        density = family.distribution(shared).log_prob(value)
        torch.testing.assert_close(density, family.distribution(full).log_prob(value))
        for got, expected in zip(
            (*family.mean_params(shared), *family.inverse_fisher(shared, full)),
            (*family.mean_params(full), *family.inverse_fisher(full, full)),
            strict=True,
        ):
            torch.testing.assert_close(got.expand_as(expected), expected)
        if family.has_rsample and len(natural) > 1:
            assert family.rsample(shared, (5,)).shape == (5, *value.shape)
