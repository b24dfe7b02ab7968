# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Expected log factorials against sums over counts, with 40 digits of mpmath."""

import math

import mpmath
import pytest
import torch

from pyro_blr.families import Binomial, NegativeBinomial, Poisson
from pyro_blr.families import log_factorials as fn

mp = mpmath.mp.clone()
mp.dps = 40


def poisson_log_factorial(rate):
    """The sum over counts up to 16 standard deviations and 60 counts beyond the mean."""
    total, prob = mp.mpf(0), mp.exp(-rate)
    log_factorial = mp.mpf(0)
    for z in range(1, int(rate + 16 * mp.sqrt(rate) + 60)):
        prob *= rate / z
        log_factorial += mp.log(z)
        total += prob * log_factorial
    return total


RATES = (1e-6, 0.02, 0.7, 3.0, 40.0, 255.9, 256.1, 1000.0)


@pytest.mark.parametrize("rate", RATES)
def test_poisson(rate):
    exact = poisson_log_factorial(mp.mpf(rate))
    ours = fn.poisson_log_factorial(torch.tensor(rate, dtype=torch.float64)).item()
    assert ours == pytest.approx(float(exact), rel=1e-14, abs=1e-15)
    entropy = mp.mpf(rate) - mp.mpf(rate) * mp.log(mp.mpf(rate)) + exact
    ours = fn.poisson_entropy(torch.tensor(rate, dtype=torch.float64)).item()
    assert ours == pytest.approx(float(entropy), rel=1e-14, abs=3e-13)


def test_the_seam_of_the_poisson_is_smooth():
    rates = torch.tensor([256 - 1e-9, 256.0], dtype=torch.float64).requires_grad_()
    for function in (fn.poisson_entropy, fn.poisson_log_factorial):
        values = function(rates)
        (slopes,) = torch.autograd.grad(values.sum(), rates, create_graph=True)
        assert abs((values[1] - values[0]).item()) < 1e-8
        assert abs((slopes[1] - slopes[0]).item()) < 1e-10


def test_the_entropy_of_a_wide_poisson_is_that_of_a_normal():
    family, natural = Poisson(), torch.tensor(30.0, dtype=torch.float64)
    expected = 0.5 * (1 + math.log(2 * math.pi) + 30.0)
    assert family.entropy((natural,)).item() == pytest.approx(expected, rel=1e-15)


@pytest.mark.parametrize("k", [0.05, 0.5, 1.0, 2.5, 40.0])
@pytest.mark.parametrize("p", [1e-6, 0.3, 0.9, 0.97])
def test_negative_binomial(k, p):
    k_, p_ = mp.mpf(k), mp.mpf(p)
    prob, log_choose, total = (1 - p_) ** k_, mp.mpf(0), mp.mpf(0)
    for z in range(1, 6000 if p > 0.5 else 300):
        prob *= p_ * (z + k_ - 1) / z
        log_choose += mp.log((z + k_ - 1) / z)
        total += prob * log_choose
    natural = torch.tensor(p, dtype=torch.float64).log()
    ours = NegativeBinomial(k).expected_log_base_measure((natural,)).item()
    assert ours == pytest.approx(float(total), rel=1e-13, abs=1e-15)


def test_a_negative_binomial_of_mean_1e9_needs_no_longer_sum():
    # (k - 1) E[log(z + ...)] -> (k - 1) (log(m) + psi(k)) - log Gamma(k), m the unit mean.
    k, m = 3.0, 1e9
    natural = torch.tensor(-1 / m, dtype=torch.float64)
    ours = NegativeBinomial(k).expected_log_base_measure((natural,)).item()
    expected = (k - 1) * (math.log(m) + float(mp.digamma(k))) - math.lgamma(k)
    assert ours == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [1, 2, 10, 300])
@pytest.mark.parametrize("logit", [-800.0, -40.0, -1.0, 0.0, 3.0, 40.0, 800.0])
def test_binomial(n, logit):
    odds = mp.exp(mp.mpf(logit))
    exact = mp.mpf(0)
    for z in range(n + 1):
        choose = mp.binomial(n, z)
        exact += choose * odds**z / (1 + odds) ** n * mp.log(choose)
    natural = torch.tensor(logit, dtype=torch.float64, requires_grad=True)
    ours = Binomial(n).expected_log_base_measure((natural,))
    assert ours.item() == pytest.approx(float(exact), rel=1e-12, abs=1e-12)
    (gradient,) = torch.autograd.grad(ours, natural)
    assert math.isfinite(gradient)
