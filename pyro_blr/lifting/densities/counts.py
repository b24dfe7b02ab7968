# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log probabilities of counts."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from ..weighted_log import times_log
from .registry import register_density
from .special import log_choose, log_complement, log_factorial, of_constant


@register_density(dist.Bernoulli)
def bernoulli(
    value: Numeric, probs: Numeric | None = None, logits: Numeric | None = None
) -> Polynomial:
    """``value log(p) + (1 - value) log(1 - p)``, by probabilities."""
    if probs is None:
        raise NotPolynomial("a Bernoulli's logits")
    return times_log(value, probs) + log_complement(probs) * (1 - polynomial(value))


@register_density(dist.Binomial)
def binomial(
    value: Numeric,
    total_count: Numeric = 1,
    probs: Numeric | None = None,
    logits: Numeric | None = None,
) -> Polynomial:
    """``k log(p) + (n - k) log(1 - p) + log C(n, k)``, by probabilities."""
    if probs is None:
        raise NotPolynomial("a Binomial's logits")
    if isinstance(total_count, Polynomial) or isinstance(value, Polynomial):
        raise NotPolynomial("`lgamma` of a latent")
    count = polynomial(total_count)
    choose = of_constant(log_choose, total_count, value)
    return times_log(value, probs) + log_complement(probs) * (count - value) + choose


@register_density(dist.Poisson)
def poisson(value: Numeric, rate: Numeric, **_: Any) -> Polynomial:
    """``value log(rate) - rate - log(value!)``, the value a constant."""
    return times_log(value, rate) - rate - of_constant(log_factorial, value)


@register_density(dist.Geometric)
def geometric(
    value: Numeric, probs: Numeric | None = None, logits: Numeric | None = None
) -> Polynomial:
    """``log(p) + k log(1 - p)``, by probabilities: k failures before the first success."""
    if probs is None:
        raise NotPolynomial("a Geometric's logits")
    return polynomial(probs).log() + log_complement(probs) * value


@register_density(dist.NegativeBinomial)
def negative_binomial(
    value: Numeric,
    total_count: Numeric,
    probs: Numeric | None = None,
    logits: Numeric | None = None,
) -> Polynomial:
    """``k log(p) + n log(1 - p) + log C(n + k - 1, k)``, by probabilities, n a constant."""
    if probs is None:
        raise NotPolynomial("a NegativeBinomial's logits")
    arrangements = of_constant(_log_arrangements, value, total_count)
    return polynomial(probs).log() * value + log_complement(probs) * total_count + arrangements


def _log_arrangements(count: Tensor, stops: Tensor) -> Tensor:
    """``log(Gamma(n + k) / (k! Gamma(n)))``; 0 at k = 0, also for n = 0."""
    count, stops = torch.broadcast_tensors(count.double(), stops.double())
    level = torch.lgamma(stops + count) - torch.lgamma(count + 1) - torch.lgamma(stops)
    return torch.where(count == 0, 0.0, level)
