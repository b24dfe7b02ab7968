# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

r"""Expectations of the logarithms of factorials: the base measures of counts.

Where the counts are bounded the expectation is a finite sum. Where they are not, a sum over counts
would have to be as long as the largest mean is; Malmsten's integral (Whittaker & Watson, 12.31),

.. math::
    \log \Gamma(x) = \int_0^\infty \Big( (x - 1) e^{-t}
        - \frac{e^{-t} - e^{-x t}}{1 - e^{-t}} \Big) \frac{dt}{t},

has the count in an exponent only, whose expectation has a closed form. In u = log t the integrands
are analytic in the strip of half-width pi/2, so the trapezoidal rule of step h is wrong by
exp(-pi^2/h) (Trefethen & Weideman 2014): 7e-18 for h = 1/4.
"""

import math

import torch
from torch import Tensor

_STEP = 0.25

# From here on the entropy of a Poisson is its asymptotic series, whose next term is 9e-17. The
# coefficients are those of Stirling's series at z and of the Poisson's central moments.
_POISSON_SERIES_FROM = 256.0
_POISSON_ENTROPY = (-1 / 12, -1 / 24, -19 / 360, -9 / 80, -863 / 2520, -1375 / 1008)

# Integrands rise like t: from here they are below 1e-17 of anything, up to means of 1e17.
_LOWEST = -80.0


def _nodes(like: Tensor, decay: float) -> Tensor:
    """Return nodes t, up to where exp(-decay t) is below 1e-18  # shape: (nodes,)"""
    highest = math.log(42.0 / decay)
    steps = torch.arange(math.ceil((highest - _LOWEST) / _STEP), device=like.device)
    return (_LOWEST + _STEP * steps.to(like.dtype)).exp()


def poisson_entropy(rate: Tensor) -> Tensor:
    """Return the entropy of a Poisson, in nats.

    :param rate: positive numbers.
    """
    small = rate < _POISSON_SERIES_FROM
    inverse = rate.clamp(min=_POISSON_SERIES_FROM).reciprocal()
    series = 0.5 - 0.5 * (inverse / (2.0 * torch.pi)).log()
    power = inverse
    for coefficient in _POISSON_ENTROPY:
        series = series + coefficient * power
        power = power * inverse
    near = rate.clamp(max=_POISSON_SERIES_FROM)
    return torch.where(small, near - near * near.log() + _poisson_integral(near), series)


def poisson_log_factorial(rate: Tensor) -> Tensor:
    """Return E[log z!] for a Poisson z.

    :param rate: positive numbers.
    """
    near = rate.clamp(max=_POISSON_SERIES_FROM)
    far = poisson_entropy(rate) - rate + rate * rate.log()
    return torch.where(rate < _POISSON_SERIES_FROM, _poisson_integral(near), far)


def _poisson_integral(rate: Tensor) -> Tensor:
    # E[exp(-z t)] = exp(-r w) with w = 1 - exp(-t); the integrand is positive.
    t = _nodes(rate, 1.0)
    w = -torch.expm1(-t)
    x = rate.unsqueeze(-1) * w
    return _STEP * ((x + torch.expm1(-x)) * ((-t).exp() / w)).sum(-1)


def negative_binomial_log_choose(total_count: float, unit_mean: Tensor) -> Tensor:
    """Return E[log Gamma(z + k) - log z! - log Gamma(k)] for a negative binomial z.

    The integral of ``(exp(-t) - exp(-k t)) (1 - exp(-z t))/(1 - exp(-t)) dt/t``, where
    ``E[exp(-z t)] = (1 + m w)^-k`` with w = 1 - exp(-t).

    :param total_count: k, positive.
    :param unit_mean: m = mean/k, the odds of a trial  # shape: (*batch,)
    """
    t = _nodes(unit_mean, min(total_count, 1.0))
    w = -torch.expm1(-t)
    excess = total_count - 1.0
    lead = (-min(total_count, 1.0) * t).exp() * torch.expm1(-abs(excess) * t)
    expected = torch.expm1(-total_count * torch.log1p(unit_mean.unsqueeze(-1) * w))
    return math.copysign(_STEP, excess) * (expected * (lead / w)).sum(-1)


def log_multinomial(counts: Tensor) -> Tensor:
    """Return log(n!/(z_1! ... z_K!)), where n is the sum of z.

    :param counts: z  # shape: (*batch, K)
    """
    return torch.lgamma(counts.sum(-1) + 1.0) - torch.lgamma(counts + 1.0).sum(-1)


def expected_log_multinomial(total_count: int, log_probs: Tensor) -> Tensor:
    """Return E[log n! - sum_k log z_k!] for multinomial counts z, whose z_k are binomial.

    The sum over 0, ..., n is complete: it takes K (n + 1) numbers for each batch element.

    :param total_count: n.
    :param log_probs: log p_k, of all K classes  # shape: (*batch, K)
    """
    counts = torch.arange(total_count + 1, dtype=log_probs.dtype, device=log_probs.device)
    classes = log_probs.shape[-1]
    itself = torch.eye(classes, dtype=torch.bool, device=log_probs.device)
    others = log_probs.unsqueeze(-2).masked_fill(itself, -math.inf).logsumexp(-1)
    log_factorial = torch.lgamma(counts + 1.0)
    whole = math.lgamma(total_count + 1.0)
    log_choose = whole - log_factorial - log_factorial.flip(-1)
    exponent = log_probs.unsqueeze(-1) * counts + others.unsqueeze(-1) * (total_count - counts)
    expected = ((exponent + log_choose).exp() * log_factorial).sum(-1)
    return whole - expected.sum(-1)
