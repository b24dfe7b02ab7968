# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The Bessel functions of a von Mises distribution against 50 digits of mpmath."""

import math

import mpmath
import pytest
import torch
from torch import Tensor

from pyro_blr.families import VonMises, bessel

mp = mpmath.mp.clone()
mp.dps = 50

# Both sides of the seam between the continued fraction and the series.
K = torch.tensor(
    [1e-8, 1e-4, 1e-2, 0.3, 1.0, 3.0, 10.0, 20.0, 30 - 1e-9, 30.0, 30 + 1e-9, 50.0, 1e3, 1e6],
    dtype=torch.float64,
)


def mean(k):
    return mp.besseli(1, k) / mp.besseli(0, k)


def mean_slope(k):
    return 1 - mean(k) / k - mean(k) ** 2


def reference(function) -> Tensor:
    squares = [mp.sqrt(mp.mpf(s)) for s in (K * K).tolist()]
    return torch.tensor([float(function(k)) for k in squares], dtype=torch.float64)


@pytest.mark.parametrize(
    ("ours", "exact", "rtol", "atol"),
    [
        (bessel.ratio, lambda k: mean(k) / k, 1e-15, 0.0),
        (bessel.ratio_slope, lambda k: (mean_slope(k) - mean(k) / k) / (2 * k * k), 1e-15, 0.0),
        (bessel.mean_slope, mean_slope, 2e-14, 0.0),
        (bessel.mean_defect, lambda k: 1 - mean(k), 3e-14, 0.0),
        (bessel.log_i0, lambda k: mp.log(mp.besseli(0, k)), 1e-15, 1e-15),
        (bessel.entropy, lambda k: mp.log(mp.besseli(0, k)) - k * mean(k), 1e-15, 2e-14),
    ],
    ids=("ratio", "ratio_slope", "mean_slope", "mean_defect", "log_i0", "entropy"),
)
def test_against_mpmath(ours, exact, rtol, atol):
    torch.testing.assert_close(ours(K * K), reference(exact), rtol=rtol, atol=atol)


def test_at_zero_all_is_smooth():
    natural = tuple(torch.zeros((), dtype=torch.float64, requires_grad=True) for _ in range(2))
    family = VonMises()
    (slope, _) = torch.autograd.grad(family.log_partition(natural), natural, create_graph=True)
    (second,) = torch.autograd.grad(slope, natural[0])
    assert slope.item() == 0.0
    assert second.item() == 0.5
    assert family.entropy(natural).item() == pytest.approx(math.log(2 * math.pi), abs=1e-15)
    one = torch.ones((), dtype=torch.float64)
    assert [x.item() for x in family.inverse_fisher(natural, (one, -one))] == [2.0, -2.0]
    assert float(family.kl(natural, natural)) == 0.0
    assert [x.item() for x in family.natural((one * 0, one * 0))] == [0.0, 0.0]


def test_inverse_mean():
    k = torch.logspace(-2, 6, 400, dtype=torch.float64)
    defect = torch.tensor([float(1 - mean(mp.mpf(v))) for v in k.tolist()], dtype=torch.float64)
    # Near k = 0 the defect is 1 - k/2: it knows k to eps/k.
    error = (bessel.inverse_mean(defect) - k).abs()
    assert bool((error <= 3e-14 * k + 1e-15).all())


def test_no_angle_has_a_mean_outside_the_circle():
    length = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    (natural, _) = VonMises().natural((length, torch.zeros_like(length)))
    assert natural.isnan().tolist() == [False, True, True]


def test_concentrated_kl():
    # Two sharp laws a little apart: (k/2) d^2 for equal k, which the textbook loses at k = 1e8.
    k, d = 1e8, 1e-5
    q = tuple(torch.tensor(v, dtype=torch.float64) for v in (k, 0.0))
    p = tuple(torch.tensor(v, dtype=torch.float64) for v in (k * math.cos(d), k * math.sin(d)))
    exact = k * mean(mp.mpf(k)) * (1 - mp.cos(mp.mpf(d)))
    assert VonMises().kl(q, p).item() == pytest.approx(float(exact), rel=1e-8)
