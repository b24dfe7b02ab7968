# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The combinations of gamma functions against 60 digits of mpmath, from 1e-3 to 1e8 and beyond."""

import mpmath
import pytest
import torch
from torch import Tensor

from pyro_blr.families import gamma_functions as fn

mp = mpmath.mp.clone()
mp.dps = 60

ARGUMENTS = torch.logspace(-3, 8, 221, dtype=torch.float64)
# Both sides of the thresholds between the direct form and the series.
SEAMS = torch.tensor(
    [x * (1 + d) for x in (16.0, 64.0) for d in (-1e-9, -1e-15, 0.0, 1e-9)], dtype=torch.float64
)
EVERYWHERE = torch.cat([ARGUMENTS, SEAMS])


def reference(function, *arguments: Tensor) -> Tensor:
    rows = zip(*(a.tolist() for a in arguments), strict=True)
    return torch.tensor([float(function(*map(mp.mpf, row))) for row in rows], dtype=torch.float64)


def entropy(a):
    return a + mp.loggamma(a) + (1 - a) * mp.digamma(a)


def remainder(a):
    return mp.loggamma(a) - (a - mp.mpf(1) / 2) * mp.log(a) + a - mp.log(2 * mp.pi) / 2


@pytest.mark.parametrize(
    ("ours", "exact", "rtol", "atol"),
    [
        # Relative: these are small differences, divided by and multiplied by large shapes.
        (fn.log_minus_digamma, lambda a: mp.log(a) - mp.digamma(a), 3e-14, 0.0),
        (fn.trigamma_excess, lambda a: a * mp.polygamma(1, a) - 1, 3e-14, 0.0),
        (fn.trigamma, lambda a: mp.polygamma(1, a), 1e-15, 0.0),
        # Absolute: nats.
        (fn.stirling_remainder, remainder, 0.0, 3e-14),
        (fn.unit_gamma_entropy, entropy, 1e-15, 1e-13),
    ],
    ids=("log_minus_digamma", "trigamma_excess", "trigamma", "stirling", "entropy"),
)
def test_against_mpmath(ours, exact, rtol, atol):
    torch.testing.assert_close(ours(EVERYWHERE), reference(exact, EVERYWHERE), rtol=rtol, atol=atol)


@pytest.mark.parametrize(
    ("ours", "first", "second"),
    [
        (fn.digamma, lambda a: mp.polygamma(1, a), lambda a: mp.polygamma(2, a)),
        (fn.log_gamma, mp.digamma, lambda a: mp.polygamma(1, a)),
    ],
    ids=("digamma", "log_gamma"),
)
def test_derivatives_have_full_precision(ours, first, second):
    # torch's own second derivative of lgamma (and first of digamma) is wrong by 5e-10.
    a = ARGUMENTS.clone().requires_grad_()
    (one,) = torch.autograd.grad(ours(a).sum(), a, create_graph=True)
    (two,) = torch.autograd.grad(one.sum(), a)
    torch.testing.assert_close(one.detach(), reference(first, a), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(two, reference(second, a), rtol=1e-14, atol=0.0)


@pytest.mark.parametrize(
    "function",
    [fn.log_minus_digamma, fn.trigamma_excess, fn.stirling_remainder, fn.unit_gamma_entropy],
)
def test_both_branches_leave_finite_gradients(function):
    a = torch.tensor([1e-6, 1e-3, 15.0, 17.0, 1e8, 1e15], dtype=torch.float64).requires_grad_()
    (gradient,) = torch.autograd.grad(function(a).sum(), a)
    assert bool(gradient.isfinite().all())
    assert torch.autograd.gradcheck(
        function, torch.tensor([0.3, 5.0, 20.0, 70.0], dtype=torch.float64).requires_grad_()
    )


def test_inverse_digamma():
    y = torch.linspace(-1000.0, 20.0, 4001, dtype=torch.float64)
    a = fn.inverse_digamma(y)
    # psi(a) = y determines a to |y| eps/psi'(a).
    error = (a.digamma() - y).abs()
    assert bool((error <= 4e-15 * (1 + y.abs())).all())


def test_inverse_log_minus_digamma_to_1e_13():
    shapes = EVERYWHERE
    y = reference(lambda a: mp.log(a) - mp.digamma(a), shapes)
    torch.testing.assert_close(fn.inverse_log_minus_digamma(y), shapes, rtol=1e-13, atol=0.0)


def test_inverse_log_minus_digamma_in_float32():
    shapes = ARGUMENTS.float()
    y = reference(lambda a: mp.log(a) - mp.digamma(a), shapes.double()).float()
    torch.testing.assert_close(fn.inverse_log_minus_digamma(y), shapes, rtol=2e-5, atol=0.0)


@pytest.mark.parametrize("power", [-0.0009, 0.3, 1.0, 7.5, -5e-4])
def test_power_correction(power):
    exact = reference(
        lambda a: mp.loggamma(a + power) - mp.loggamma(a) - power * mp.log(a), ARGUMENTS
    )
    # The sum a + power rounds: near a pole of the gamma function that is eps a/(a + power).
    atol = 3e-14 + 1e-15 * abs(power) / (ARGUMENTS + power).min().item()
    torch.testing.assert_close(fn.power_correction(ARGUMENTS, power), exact, rtol=0, atol=atol)
