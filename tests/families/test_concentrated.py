# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Shapes from 1e-3 to 1e8, where textbook formulas cancel, against 60 digits of mpmath."""

import itertools

import mpmath
import pytest
import torch
from torch import Tensor

from pyro_blr.families import (
    Bernoulli,
    Beta,
    DiagonalNormal,
    Dirichlet,
    Gamma,
    MultivariateNormal,
    Normal,
)
from pyro_blr.families.dirichlet import concentration_of

mp = mpmath.mp.clone()
mp.dps = 60

SHAPES = (1e-3, 0.04, 0.5, 1.0, 3.7, 15.0, 17.0, 63.0, 1e3, 1e6, 1e8)
PAIRS = torch.tensor(list(itertools.product(SHAPES, SHAPES)), dtype=torch.float64)


def exact(natural: Tensor) -> list:
    """The concentration that natural parameters stand for, exactly: a = natural + 1."""
    return [mp.mpf(x) + 1 for x in natural.tolist()]


def dirichlet_log_partition(a):
    return sum(map(mp.loggamma, a)) - mp.loggamma(sum(a))


def dirichlet_means(a):
    a = list(a)
    return [mp.digamma(x) - mp.digamma(sum(a)) for x in a]


def dirichlet_entropy(a):
    return dirichlet_log_partition(a) - sum(
        (x - 1) * m for x, m in zip(a, dirichlet_means(a), strict=True)
    )


def dirichlet_kl(q, p):
    pairs = zip(p, q, dirichlet_means(q), strict=True)
    inner = sum((x - y) * m for x, y, m in pairs)
    return dirichlet_log_partition(p) - dirichlet_log_partition(q) - inner


def test_gamma_entropy():
    natural = (PAIRS[:, 0] - 1, -PAIRS[:, 1])
    shapes, rates = exact(natural[0]), [-mp.mpf(x) for x in natural[1].tolist()]
    expected = [
        float(a - mp.log(b) + mp.loggamma(a) + (1 - a) * mp.digamma(a))
        for a, b in zip(shapes, rates, strict=True)
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(Gamma().entropy(natural), expected, rtol=1e-15, atol=1e-13)


@pytest.mark.parametrize("change", [0.0, 1e-9, 1e-4, 0.3, 9.0])
def test_gamma_kl(change):
    shape, rate = PAIRS[:, 0], PAIRS[:, 1]
    q = (shape - 1, -rate)
    p = (shape * (1 + change) - 1, -rate * (1 + change / 2))
    expected = []
    for a_q, a_p, n_q, n_p in zip(exact(q[0]), exact(p[0]), q[1], p[1], strict=True):
        b_q, b_p = -mp.mpf(n_q.item()), -mp.mpf(n_p.item())
        log_partitions = mp.loggamma(a_p) - a_p * mp.log(b_p) - mp.loggamma(a_q) + a_q * mp.log(b_q)
        inner = (a_q - a_p) * (mp.digamma(a_q) - mp.log(b_q)) + (b_p - b_q) * a_q / b_q
        expected.append(float(log_partitions + inner))
    # The ratios of the parameters round: a (ratio - 1) eps is inherent, 1e-12 at a = 1e8.
    atol = 1e-13 + 4e-16 * change * shape.max().item()
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(Gamma().kl(q, p), expected, rtol=1e-13, atol=atol)


def test_beta_entropy():
    natural = (PAIRS[:, 0] - 1, PAIRS[:, 1] - 1)
    expected = [float(dirichlet_entropy(a)) for a in zip(*map(exact, natural), strict=True)]
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(Beta().entropy(natural), expected, rtol=1e-14, atol=3e-13)


@pytest.mark.parametrize("change", [0.0, 1e-9, 1e-4, 0.3, 9.0])
def test_beta_kl(change):
    q = (PAIRS[:, 0] - 1, PAIRS[:, 1] - 1)
    p = (PAIRS[:, 0] * (1 + change) - 1, PAIRS[:, 1] * (1 + change / 2) - 1)
    expected = [
        float(dirichlet_kl(a, b))
        for a, b in zip(
            zip(*map(exact, q), strict=True), zip(*map(exact, p), strict=True), strict=True
        )
    ]
    expected = torch.tensor(expected, dtype=torch.float64)
    atol = 1e-13 + 4e-16 * change * PAIRS.max().item()
    torch.testing.assert_close(Beta().kl(q, p), expected, rtol=1e-13, atol=atol)


def test_gamma_inverse_fisher():
    natural = (PAIRS[:, 0] - 1, -PAIRS[:, 1])
    covector = (torch.full_like(natural[0], 0.7), torch.full_like(natural[0], -0.3))
    first, second = Gamma().inverse_fisher(natural, covector)
    for k, (a, n) in enumerate(zip(exact(natural[0]), natural[1].tolist(), strict=True)):
        b = -mp.mpf(n)
        fisher = mp.matrix([[mp.polygamma(1, a), 1 / b], [1 / b, a / b**2]])
        solution = mp.lu_solve(fisher, mp.matrix([0.7, -0.3]))
        assert abs(first[k].item() / solution[0] - 1) < 1e-12, (a, b)
        assert abs(second[k].item() / solution[1] - 1) < 1e-12, (a, b)


TRIPLES = torch.tensor(list(itertools.product(SHAPES[::2], repeat=3)), dtype=torch.float64)


@pytest.mark.parametrize("concentrations", [PAIRS, TRIPLES], ids=("K=2", "K=3"))
def test_dirichlet_inverse_fisher(concentrations):
    natural = concentrations - 1
    covector = torch.linspace(0.5, 1.0, concentrations.shape[-1], dtype=torch.float64)
    solved = Dirichlet().inverse_fisher((natural,), (covector.expand_as(natural),))[0]
    for row, got in zip(natural, solved, strict=True):
        a = exact(row)
        total = mp.polygamma(1, sum(a))
        size = len(a)
        fisher = mp.matrix(size, size)
        for i, j in itertools.product(range(size), repeat=2):
            fisher[i, j] = (mp.polygamma(1, a[i]) if i == j else 0) - total
        solution = mp.lu_solve(fisher, mp.matrix(covector.tolist()))
        for i in range(size):
            assert abs(got[i].item() / solution[i] - 1) < 2e-12, (row, i)


def test_gamma_natural_to_the_condition_of_the_means():
    natural = (PAIRS[:, 0] - 1, -PAIRS[:, 1])
    means = []
    for a, n in zip(exact(natural[0]), natural[1].tolist(), strict=True):
        means.append((float(mp.digamma(a) + mp.log(1 / -mp.mpf(n))), float(a / -mp.mpf(n))))
    expected_log, mean = torch.tensor(means, dtype=torch.float64).unbind(-1)
    shape = Gamma().natural((expected_log, mean))[0] + 1
    true = natural[0] + 1
    # The defect log(mean) - E[log z] is known to some eps |log|, and a to 2 a times that.
    size = 1 + expected_log.abs() + mean.log().abs()
    assert bool(((shape - true).abs() / true < 1e-13 + 4e-16 * true * size).all())


@pytest.mark.parametrize("concentrations", [PAIRS, TRIPLES], ids=("K=2", "K=3"))
def test_dirichlet_concentration_reproduces_the_means(concentrations):
    # A concentration of 1e8 beside one of 1e-3 has a mean of -1e-11: representable, so exact
    # means are well conditioned inputs and must come back. (As a natural parameter, a - 1, the
    # concentration 1e-3 itself has 13 digits only.)
    rows = [[float(m) for m in dirichlet_means(map(mp.mpf, a))] for a in concentrations.tolist()]
    means = torch.tensor(rows, dtype=torch.float64)
    solved = concentration_of(means)
    rows = [[float(m) for m in dirichlet_means(map(mp.mpf, a))] for a in solved.tolist()]
    again = torch.tensor(rows, dtype=torch.float64)
    torch.testing.assert_close(again, means, rtol=1e-14, atol=2e-15)


def test_dirichlet_natural_is_nan_without_a_solution():
    # sum exp(E[log z]) < 1 by Jensen, so there is no member with these means.
    impossible = torch.tensor([[-0.5, -0.5], [0.0, 0.0], [-0.1, -3.0]], dtype=torch.float64)
    (natural,) = Dirichlet().natural((impossible,))
    assert bool(natural[:2].isnan().all())
    assert bool(natural[2].isfinite().all())


def test_bernoulli_with_large_logits():
    # softplus, the textbook log-partition, is the identity above 20 in torch: 1e-9 off.
    logits = torch.tensor([-700.0, -40.0, -21.0, 0.0, 19.0, 21.0, 40.0, 700.0], dtype=torch.float64)
    entropies, log_partitions = [], []
    with mpmath.workdps(400):
        for logit in logits.tolist():
            odds = mpmath.exp(mpmath.mpf(logit))
            p = odds / (1 + odds)
            entropies.append(float(-p * mpmath.log(p) - (1 - p) * mpmath.log(1 - p)))
            log_partitions.append(float(mpmath.log(1 + odds)))
    for got, expected in (
        (Bernoulli().entropy((logits,)), entropies),
        (Bernoulli().log_partition((logits,)), log_partitions),
    ):
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(got, expected, rtol=1e-14, atol=0.0)


def test_blocks_of_different_batch_shapes_broadcast():
    # One covariance for a whole plate must not be expanded along it.
    for family, shared in (
        (Normal(), torch.tensor(-0.5, dtype=torch.float64)),
        (MultivariateNormal(), -0.5 * torch.eye(2, dtype=torch.float64)),
    ):
        first = torch.randn(3, *shared.shape[1:], dtype=torch.float64)
        natural = (first, shared)
        assert family.batch_shape(natural) == (3,)
        full = family.expand(natural, (3,))
        for method in (family.entropy, family.log_partition, family.in_domain):
            torch.testing.assert_close(method(natural), method(full))
        for got, expected in zip(
            family.mean_params(natural), family.mean_params(full), strict=True
        ):
            torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_precision_whose_inverse_overflows_is_outside(dtype: torch.dtype) -> None:
    """Its mean would be 0 times infinity; the least that is inside has a finite variance."""
    tiny = torch.finfo(dtype).tiny
    for precision, is_inside in ((tiny / 4, False), (8 * tiny, True)):
        second = torch.tensor([-0.5 * precision, -1.0], dtype=dtype)
        first = torch.zeros(2, dtype=dtype)
        each = (
            (Normal(), (first[0], second[0])),
            (DiagonalNormal(), (first, second)),
            (MultivariateNormal(), (first, torch.diag(second))),
        )
        for family, natural in each:
            assert bool(family.in_domain(natural)) == is_inside, family
            if is_inside:
                assert torch.isfinite(family.distribution(natural).variance).all()
