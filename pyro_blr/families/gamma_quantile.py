# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The quantile of a unit gamma, as a smooth map of standard normal noise.

A rejection sampler with a fixed random state jumps as the shape moves: the proposal that it takes
is another one. The quantile at a fixed level has no jump, so that what is computed from draws is a
smooth function of the parameters.
"""

from typing import Any

import torch
from torch import Tensor
from torch.special import gammainc, gammaincc

from pyro_blr.families import gamma_functions as fn

#: Newton steps: from the start below, 6 reach rounding for shapes above 1e-3 (see the tests).
ITERATIONS = 8

#: Below this x the law of log x is its leading terms, ``log P = a log x - log Gamma(a + 1) - a x /
#: (a + 1)``, to x^2 / 2 = 5e-17; there x itself may be too small for floating point.
SMALL = 1e-8

#: From this shape on the quantile is expanded: what the terms left out add to log x is below 3e-12
#: within 6 standard deviations, and torch's ``gammainc`` begins to lose digits.
EXPANDED = 1e4

#: The step of the central difference of log P in the shape, in units of the length over which it
#: bends: truncation h^2/6 and rounding eps/h are both near 1e-11.
DIFFERENCE = 1e-5

#: That of the slope, which is known to about 1e-11: the second derivative has about seven digits.
SECOND_DIFFERENCE = 1e-3


def gamma_at(noise: Tensor, shape: Tensor) -> Tensor:
    """A unit gamma whose level is that of a standard normal number; see :func:`log_gamma_at`.

    A number too small for the dtype is the smallest normal one, as in torch's own sampler.
    """
    return log_gamma_at(noise, shape).exp().clamp(min=torch.finfo(shape.dtype).tiny)


def log_gamma_at(noise: Tensor, shape: Tensor) -> Tensor:
    """The logarithm of a unit gamma whose level is that of a standard normal number.

    It is ``log F^-1(Phi(noise); a)``, increasing in the noise; its derivative in the shape is the
    implicit one, ``-(dF/da) / (dF/dlog x)`` (arXiv 1805.08498, eq. 5); there is a second one.

    :param noise: standard normal numbers # shape: (*sample, *batch)
    :param shape: a, positive numbers # shape: (*batch,)
    :return: # shape: (*sample, *batch), in the dtype of the shape
    """
    noise, each = torch.broadcast_tensors(noise, shape)
    value: Tensor = _LogQuantile.apply(noise.detach(), each)  # type: ignore[no-untyped-call]
    return value


class _LogQuantile(torch.autograd.Function):
    """Computed in float64, whatever the shape's dtype."""

    @staticmethod
    def forward(ctx: Any, noise: Tensor, shape: Tensor) -> Tensor:
        wide, a = noise.double(), shape.double()
        value = _solved(wide, a)
        ctx.save_for_backward(noise, shape, value)
        return value.to(shape.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        noise, shape, value = ctx.saved_tensors
        slope: Tensor = _Slope.apply(noise, shape, value)  # type: ignore[no-untyped-call]
        return None, gradient * slope


class _Slope(torch.autograd.Function):
    """The derivative of the quantile's logarithm in the shape, itself differentiable once."""

    @staticmethod
    def forward(ctx: Any, noise: Tensor, shape: Tensor, value: Tensor) -> Tensor:
        wide, a = noise.double(), shape.double()
        slope = _slope(wide, a, value)
        ctx.save_for_backward(wide, a, value, slope)
        return slope.to(shape.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        noise, a, value, slope = ctx.saved_tensors
        step = SECOND_DIFFERENCE * torch.where(a > 1, a.sqrt(), a)
        # The quantile moves along with the shape; its bend is the same on both sides.
        ahead = _slope(noise, a + step, value + step * slope)
        behind = _slope(noise, a - step, value - step * slope)
        return None, (gradient * (ahead - behind) / (2 * step)).to(gradient.dtype), None


def _slope(noise: Tensor, a: Tensor, value: Tensor) -> Tensor:
    """The implicit derivative of the quantile's logarithm in the shape."""
    upper = _is_upper(noise, a)
    # The distribution function bends over sqrt(a) where that is the width, over a below.
    step = DIFFERENCE * torch.where(a > 1, a.sqrt(), a)
    change = _log_tail(value, a + step, upper) - _log_tail(value, a - step, upper)
    slope = -(change / (2 * step)) / _tail_slope(value, a, upper)
    with torch.enable_grad():
        leaf = a.detach().requires_grad_()
        (expanded,) = torch.autograd.grad(_expanded(noise, leaf).sum(), leaf)
    return torch.where(a < EXPANDED, slope, expanded)


def _solved(noise: Tensor, a: Tensor) -> Tensor:
    """log x with the tail of x equal to that of the noise, by Newton's method.

    The logarithm of either tail is concave in log x, so that Newton's method goes to the root from
    one side, and along a line (small x) in one step.
    """
    upper = _is_upper(noise, a)
    target = torch.special.log_ndtr(torch.where(upper, -noise, noise))
    value = _start(noise, a, upper)
    for _ in range(ITERATIONS):
        gap = _log_tail(value, a, upper) - target
        value = value - gap / _tail_slope(value, a, upper)
    return torch.where(a < EXPANDED, value, _expanded(noise, a))


def _is_upper(noise: Tensor, a: Tensor) -> Tensor:
    """Whether the upper tail has the digits: the smaller one, where x is above 1 for small a."""
    upper: Tensor = torch.special.log_ndtr(-noise) < (0.2 * a).clamp(max=0.5).log()
    return upper


def _start(noise: Tensor, a: Tensor, upper: Tensor) -> Tensor:
    """Wilson and Hilferty's cube; bounds of the root where that is no use.

    They are ``P <= x^a / Gamma(a + 1)`` and, for a <= 1 < x, ``Q <= a exp(-x)``; Newton's method
    cannot overshoot from them.
    """
    root = 1 - 1 / (9 * a) + noise / (3 * a.sqrt())
    bound = (torch.special.log_ndtr(noise) + torch.lgamma(a + 1)) / a
    above = (a.log() - torch.special.log_ndtr(-noise)).clamp(min=1.0).log()
    bound = torch.where(upper & (a <= 1), above, bound)
    return torch.where((a > 1) & (root > 0.6), a.log() + 3 * root.clamp(min=0.6).log(), bound)


def _expanded(noise: Tensor, a: Tensor) -> Tensor:
    """The logarithm of Cornish and Fisher's expansion of the quantile in ``a^-1/2``."""
    e, s = noise, a.rsqrt()
    squared = e * e
    terms = (
        e,
        (squared - 1) / 3,
        e * (squared - 7) / 36,
        -(squared * (3 * squared + 7) - 16) / 810,
        e * (squared * (9 * squared + 256) - 433) / 38880,
    )
    ratio = torch.zeros_like(s)
    for term in reversed(terms):
        ratio = s * (term + ratio)
    return a.log() + torch.log1p(ratio)


def _log_tail(value: Tensor, a: Tensor, upper: Tensor) -> Tensor:
    """The logarithm of the upper tail Q(a, x), or of the lower one, P(a, x), at log x."""
    x = value.exp()
    lower = torch.where(
        x < SMALL, a * value - torch.lgamma(a + 1) - a * x / (a + 1), gammainc(a, x).log()
    )
    # Where the upper tail is nearly 1 its logarithm is that of the lower one's complement.
    below = torch.log1p(-lower.exp())
    return torch.where(upper, torch.where(x < SMALL, below, gammaincc(a, x).log()), lower)


def _tail_slope(value: Tensor, a: Tensor, upper: Tensor) -> Tensor:
    """The derivative of the tail's logarithm in log x."""
    x = value.exp()
    # a log x - x - log Gamma(a) without its large terms.
    small = a * value - x - torch.lgamma(a)
    large = -a * fn.bregman_log(x / a) + 0.5 * a.log() - fn.HALF_LOG_TWO_PI
    density = torch.where(a > 1, large - fn.stirling_remainder(a), small)
    ratio = (density - _log_tail(value, a, upper)).exp()
    return torch.where(upper, -ratio, ratio)
