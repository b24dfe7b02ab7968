# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

r"""Combinations of the gamma function that do not cancel, on tensors.

The families of Gamma and Dirichlet type need differences such as
:math:`\log a - \psi(a)` or :math:`a \psi'(a) - 1`, which are about :math:`1 / 2a`: at a = 1e8 the
plain difference has no correct digit beyond the eighth. Above a threshold they are summed from
the asymptotic series (DLMF 5.11.1, 5.11.2, 5.15.8), below it they are taken directly.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid
from torch.special import zeta

HALF_LOG_TWO_PI = 0.5 * math.log(2.0 * math.pi)

# Bernoulli numbers B_2, B_4, ..., B_12.
_BERNOULLI = (1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730)

# Six terms leave B_14 / a^14 = 1.2 / 16^14 = 2e-17 at the threshold, against leading terms of
# 1 / 2a = 0.03: the series is full double precision from there on, and the direct difference
# loses at most a factor 0.03 / log(16) below it, that is 1e-14.
_SERIES_FROM = 16.0

# The coefficients of the series of log a - psi(a), a psi'(a) - 1 and of Stirling's remainder.
_DIGAMMA_TERMS = tuple(b / (2 * k) for k, b in enumerate(_BERNOULLI, start=1))
_TRIGAMMA_TERMS = _BERNOULLI
_STIRLING_TERMS = tuple(b / (2 * k * (2 * k - 1)) for k, b in enumerate(_BERNOULLI, start=1))

# Entropy: R(a) + (a - 1) (log a - psi(a)) = 1/2 + sum_k c_k a^-k, from the two series above.
# The next coefficient is -1/210, and 64^-7 / 210 = 1e-15; below 64 the direct sum has terms of at
# most 64 log(64) = 266, that is an absolute error of 6e-14 nats.
_ENTROPY_FROM = 64.0
_ENTROPY_TERMS = (-1 / 3, -1 / 12, -1 / 90, 1 / 120, 1 / 210, -1 / 252)


class _Digamma(torch.autograd.Function):
    """psi with an accurate derivative: torch's own, ``polygamma(1, a)``, is wrong by 5e-10."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return torch.digamma(a)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return grad * trigamma(a)


class _LogGamma(torch.autograd.Function):
    """log Gamma whose derivatives pass through :class:`_Digamma`."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        return torch.lgamma(a)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (a,) = ctx.saved_tensors
        return grad * digamma(a)


def digamma(a: Tensor) -> Tensor:
    """Return psi(a), with derivatives of full precision.

    :param a: positive numbers.
    """
    # A python-level Function costs four times the plain operation, so only where it is needed.
    psi: Tensor = _Digamma.apply(a) if a.requires_grad else torch.digamma(a)  # type: ignore[no-untyped-call]
    return psi


def log_gamma(a: Tensor) -> Tensor:
    """Return log Gamma(a), with derivatives of full precision.

    :param a: positive numbers.
    """
    value: Tensor = _LogGamma.apply(a) if a.requires_grad else torch.lgamma(a)  # type: ignore[no-untyped-call]
    return value


def trigamma(a: Tensor) -> Tensor:
    """Return psi'(a) = zeta(2, a); torch's ``polygamma(1, a)`` has errors of 5e-10.

    :param a: positive numbers.
    """
    value: Tensor = zeta(2.0, a)
    return value


def _horner(x: Tensor, coefficients: tuple[float, ...]) -> Tensor:
    """Return sum_k coefficients[k] x^(k + 1)."""
    total = x * coefficients[-1]
    for coefficient in reversed(coefficients[:-1]):
        total = (total + coefficient) * x
    return total


def _inverse_above(a: Tensor, threshold: float) -> Tensor:
    # The series branch is evaluated (and differentiated) everywhere; at the threshold at least,
    # so that the branch that torch.where discards stays finite.
    return a.clamp(min=threshold).reciprocal()


def log_minus_digamma(a: Tensor) -> Tensor:
    """Return log a - psi(a), which is positive, to relative precision.

    :param a: positive numbers.
    """
    inverse = _inverse_above(a, _SERIES_FROM)
    series = 0.5 * inverse + _horner(inverse * inverse, _DIGAMMA_TERMS)
    return torch.where(a < _SERIES_FROM, a.log() - digamma(a), series)


def trigamma_excess(a: Tensor) -> Tensor:
    """Return a psi'(a) - 1, which is positive, to relative precision.

    :param a: positive numbers.
    """
    inverse = _inverse_above(a, _SERIES_FROM)
    series = 0.5 * inverse + _horner(inverse * inverse, _TRIGAMMA_TERMS)
    return torch.where(a < _SERIES_FROM, a * trigamma(a) - 1.0, series)


def stirling_remainder(a: Tensor) -> Tensor:
    """Return R(a) = log Gamma(a) - (a - 1/2) log a + a - log(2 pi)/2.

    :param a: positive numbers.
    """
    inverse = _inverse_above(a, _SERIES_FROM)
    series = _horner(inverse * inverse, _STIRLING_TERMS) / inverse
    direct = log_gamma(a) - (a - 0.5) * a.log() + a - HALF_LOG_TWO_PI
    return torch.where(a < _SERIES_FROM, direct, series)


def unit_gamma_entropy(a: Tensor) -> Tensor:
    """Return the entropy of Gamma(a, 1), a + log Gamma(a) + (1 - a) psi(a), to 1e-13 nats.

    :param a: positive numbers.
    """
    series = 0.5 * a.log() + (HALF_LOG_TWO_PI + 0.5)
    series = series + _horner(_inverse_above(a, _ENTROPY_FROM), _ENTROPY_TERMS)
    direct = a + log_gamma(a) + (1.0 - a) * digamma(a)
    return torch.where(a < _ENTROPY_FROM, direct, series)


def bregman_log(ratio: Tensor) -> Tensor:
    """Return ratio - 1 - log(ratio), the divergence of -log; zero at ratio = 1.

    :param ratio: positive numbers.
    """
    return ratio - 1.0 - ratio.log()


def bregman_stirling(p: Tensor, q: Tensor) -> Tensor:
    """Return the Bregman divergence of log Gamma(a) - a log a + a between two points.

    The divergence of ``a log a - a`` is the part that cancels between the terms of a KL; it is
    left out here and added in closed form by the callers.

    :param p: positive numbers.
    :param q: positive numbers, where the tangent is taken.
    """
    tangent = log_minus_digamma(q) - 0.5 / q
    remainder = stirling_remainder(p) - stirling_remainder(q) + (p - q) * tangent
    return 0.5 * bregman_log(p / q) + remainder


def power_correction(a: Tensor, power: float) -> Tensor:
    """Return log Gamma(a + power) - log Gamma(a) - power log a.

    :param a: positive numbers, with ``a + power`` positive as well.
    :param power: a real number.
    """
    shifted = a + power
    remainder = stirling_remainder(shifted) - stirling_remainder(a)
    return (shifted - 0.5) * torch.log1p(power / a) - power + remainder


def inverse_digamma(y: Tensor, iterations: int = 4) -> Tensor:
    """Return a with psi(a) = y, by Newton's method.

    The start 1/log(1 + exp(-y)) has both limits, exp(y) + 1/2 and -1/y. It is within 6 %
    everywhere; the steps leave 3e-3, 9e-6, 8e-11 and 1e-15 (relative, in the worst place).

    :param y: any real numbers.
    :param iterations: number of Newton steps.
    """
    a = -logsigmoid(y).reciprocal()
    for _ in range(iterations):
        a = a - (digamma(a) - y) / trigamma(a)
    return a


def inverse_log_minus_digamma(y: Tensor, iterations: int = 4) -> Tensor:
    """Return a with log a - psi(a) = y, the maximum-likelihood shape of a Gamma.

    Newton's method on the logarithm of both sides in log a, where the slope stays in (-1, -1/2]
    and hardly bends.

    :param y: positive numbers.
    :param iterations: number of Newton steps; the start is within 15 %.
    """
    # a y runs from 1/2 (y -> 0) to 1 (y -> infinity).
    a = (0.5 + y) / (y * (1.0 + y))
    for _ in range(iterations):
        current = log_minus_digamma(a)
        a = a * ((current / y).log() * current / trigamma_excess(a)).exp()
    return a
