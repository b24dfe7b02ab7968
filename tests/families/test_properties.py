# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Properties over the whole width of the domains, with hypothesis."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pyro_blr.families import ExponentialFamily, Natural
from tests.families.contract import ROWS, Row, round_trip_bound

SHAPE = st.floats(-3, 8).map(lambda x: 10.0**x)
RATE = st.floats(-8, 8).map(lambda x: 10.0**x)
REAL = st.floats(-100, 100)


def tensor(*numbers: float) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def normal(m: float, s: float) -> Natural:
    return tensor(s * m), tensor(-s / 2)


@st.composite
def precisions(draw: st.DrawFn) -> Tensor:
    """Positive definite matrices whose eigenvalues are up to 1e4 apart."""
    size = draw(st.integers(1, 4))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    orthogonal = torch.linalg.qr(
        torch.randn(size, size, generator=generator, dtype=torch.float64)
    ).Q
    scales = tensor(*(draw(st.floats(-2, 2).map(lambda x: 10.0**x)) for _ in range(size)))
    precision = (orthogonal * scales) @ orthogonal.mT
    return (precision + precision.mT) / 2


def location(precision: Tensor, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(precision.shape[-1], generator=generator, dtype=torch.float64)


def multivariate_normal(precision: Tensor, seed: int) -> Natural:
    return precision @ location(precision, seed), -precision / 2


def diagonal_normal(precision: Tensor, seed: int) -> Natural:
    diagonal = precision.diagonal()
    return diagonal * location(precision, seed), -diagonal / 2


def shared_covariance_normal(precision: Tensor, seed: int) -> Natural:
    rows = torch.stack([location(precision, seed + k) for k in range(3)])
    return rows @ precision, -precision / 2


def arrow_normal(schur: Tensor, seed: int) -> Natural:
    """Groups whose conditional precisions are multiples of each other."""
    size = schur.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    slopes = torch.randn(3, size, 2, generator=generator, dtype=torch.float64)
    local = tensor(0.1, 1.0, 30.0)[:, None, None] * tensor(2.0, 1.0, 1.0, 3.0).reshape(2, 2)
    cross = slopes @ local
    full = schur + (cross @ slopes.mT).sum(0)
    m = location(schur, seed)
    # The local means are 0.
    return full @ m, m @ cross, -(full + full.mT) / 4, -cross, -local / 2


def chain_normal(precision: Tensor, seed: int) -> Natural:
    """A walk whose steps have a precision matrix, of any condition, and its multiples."""
    generator = torch.Generator().manual_seed(seed)
    precision = precision[:2, :2]
    size, length = precision.shape[-1], 4
    steps = tensor(1.0, 0.1, 30.0)[:, None, None] * precision
    slope = torch.randn(size, size, generator=generator, dtype=torch.float64)
    full = torch.zeros(length, size, size, dtype=torch.float64)
    full[0] = precision
    full[1:] += steps
    full[:-1] += slope.mT @ steps @ slope
    beside = -slope.mT @ steps
    m = location(precision, seed)
    linear = torch.zeros(length, size, dtype=torch.float64)
    linear[0], linear[1] = full[0] @ m, m @ beside[0]
    # The later means are 0.
    return linear, -(full + full.mT) / 4, -beside


def normal_gamma(precision: Tensor, seed: int, a: float, b: float) -> Natural:
    m = location(precision, seed)
    return (
        tensor(a - 1 + len(m) / 2)[0],
        -b - m @ precision @ m / 2,
        precision @ m,
        -precision / 2,
    )


def normal_inverse_gamma(precision: Tensor, seed: int, a: float, b: float) -> Natural:
    first, *rest = normal_gamma(precision, seed, a, b)
    return -first - 2, *rest


def normal_wishart(rate: Tensor, seed: int, x: float, kappa: float) -> Natural:
    m = location(rate, seed)
    return (
        tensor(x - 0.5)[0],
        -rate - kappa * torch.outer(m, m) / 2,
        kappa * m,
        tensor(-kappa / 2)[0],
    )


SEED = st.integers(0, 1000)
# Joint blocks: a precision known to 1e-4 beside one known to 1e+4 has lost what is between them.
MODERATE = st.floats(-1, 2).map(lambda x: 10.0**x)

WIDE = {
    "Normal": st.builds(normal, REAL, st.floats(-4, 4).map(lambda x: 10.0**x)),
    "MultivariateNormal": st.builds(multivariate_normal, precisions(), SEED),
    "DiagonalNormal": st.builds(diagonal_normal, precisions(), SEED),
    "SharedCovarianceNormal": st.builds(shared_covariance_normal, precisions(), SEED),
    "ArrowNormal": st.builds(arrow_normal, precisions(), SEED),
    "ChainNormal": st.builds(chain_normal, precisions(), SEED),
    "Gamma": st.builds(lambda a, b: (tensor(a - 1), tensor(-b)), SHAPE, RATE),
    "Beta": st.builds(lambda a, b: (tensor(a - 1), tensor(b - 1)), SHAPE, SHAPE),
    "Dirichlet": st.lists(SHAPE, min_size=2, max_size=6).map(lambda a: (tensor(*a) - 1,)),
    "Bernoulli": st.floats(-30, 30).map(lambda x: (tensor(x),)),
    "SignBernoulli": st.floats(-15, 15).map(lambda x: (tensor(x),)),
    "FixedScaleNormal": REAL.map(lambda x: (tensor(x),)),
    "Categorical": st.lists(st.floats(-15, 15), min_size=1, max_size=6).map(
        lambda x: (tensor(*x),)
    ),
    "InverseGamma": st.builds(lambda a, b: (tensor(-a - 1), tensor(-b)), SHAPE, RATE),
    "Wishart": st.builds(lambda w, x: (tensor(x - 1)[0], -w), precisions(), SHAPE),
    "NormalGamma": st.builds(normal_gamma, precisions(), SEED, MODERATE, MODERATE),
    "NormalInverseGamma": st.builds(normal_inverse_gamma, precisions(), SEED, MODERATE, MODERATE),
    "NormalWishart": st.builds(normal_wishart, precisions(), SEED, MODERATE, MODERATE),
    "Poisson": st.floats(-5, 9).map(lambda x: (tensor(x),)),
    "Geometric": st.floats(-6, 1.5).map(lambda x: (tensor(-(10.0**x)),)),
    "Binomial": st.floats(-30, 30).map(lambda x: (tensor(x),)),
    "NegativeBinomial": st.floats(-6, 1.5).map(lambda x: (tensor(-(10.0**x)),)),
    "Multinomial": st.lists(st.floats(-15, 15), min_size=1, max_size=6).map(
        lambda x: (tensor(*x),)
    ),
    "Exponential": RATE.map(lambda x: (tensor(-x),)),
    "LogNormal": st.builds(normal, REAL, st.floats(-4, 4).map(lambda x: 10.0**x)),
    "VonMises": st.builds(
        lambda k, m: (tensor(k * math.cos(m)), tensor(k * math.sin(m))),
        st.floats(-3, 6).map(lambda x: 10.0**x) | st.just(0.0),
        st.floats(-4, 4),
    ),
}

every_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: row.family.name)


def draw_like(data: st.DataObject, row: Row, natural: Natural) -> Natural:
    """A second member, of the same size."""

    def same(other: Natural) -> bool:
        return all(a.shape == b.shape for a, b in zip(other, natural, strict=True))

    return data.draw(WIDE[row.family.name].filter(same))


@every_row
@given(data=st.data())
def test_round_trip(row, data):
    natural = data.draw(WIDE[row.family.name])
    assert bool(row.family.in_domain(natural).all())
    back = row.family.natural(row.family.mean_params(natural))
    for actual, expected, bound in zip(back, natural, round_trip_bound(row, natural), strict=True):
        assert bool(((actual - expected).abs() <= bound).all()), (actual, expected, bound)


@every_row
@given(data=st.data())
def test_kl_is_a_divergence(row, data):
    family = row.family
    q = data.draw(WIDE[family.name])
    p = draw_like(data, row, q)
    tiny = 1e-12 * (1 + sum(float(x.abs().max()) for x in family.mean_params(q)))
    assert float(family.kl(q, p).min()) >= -tiny
    assert float(family.kl(q, q).abs().max()) <= tiny


@every_row
@given(data=st.data())
def test_everything_is_finite(row, data):
    family = row.family
    natural = data.draw(WIDE[family.name])
    covector = tuple(torch.ones_like(x) for x in natural)
    results = (
        *family.mean_params(natural),
        family.log_partition(natural),
        family.entropy(natural),
        *family.inverse_fisher(natural, covector),
    )
    assert all(bool(x.isfinite().all()) for x in results)


UNIT_BASE = [
    row for row in ROWS if type(row.family).log_base_measure is ExponentialFamily.log_base_measure
]


@pytest.mark.parametrize("row", UNIT_BASE, ids=lambda row: row.family.name)
@given(data=st.data())
def test_entropy_is_concave_along_a_segment_of_means(row, data):
    # A convex combination of mean parameters is the mean of a mixture, whose entropy is at least
    # the average (h = 1): a property of H(mean), so of natural(mean) and entropy together.
    family = row.family
    q = data.draw(WIDE[family.name])
    p = draw_like(data, row, q)
    middle = tuple(
        (a + b) / 2 for a, b in zip(family.mean_params(q), family.mean_params(p), strict=True)
    )
    average = (family.entropy(q) + family.entropy(p)) / 2
    # dH = -<natural, dmean>: rounding a mean of size 20 with a natural parameter of 1e8 is 5e-7.
    assert bool((family.entropy(family.natural(middle)) >= average - 1e-6).all())
