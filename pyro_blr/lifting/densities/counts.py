# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log probabilities of counts."""

from typing import Any

import pyro.distributions as dist

from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from .registry import register_density
from .special import log_choose, log_factorial, of_constant


@register_density(dist.Bernoulli)
def bernoulli(
    value: Numeric, probs: Numeric | None = None, logits: Numeric | None = None
) -> Polynomial:
    """``value log(p) + (1 - value) log(1 - p)``, by probabilities."""
    if probs is None:
        raise NotPolynomial("a Bernoulli's logits")
    probs, value = polynomial(probs), polynomial(value)
    return probs.log() * value + (1 - probs).log() * (1 - value)


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
    probs, count = polynomial(probs), polynomial(total_count)
    choose = of_constant(log_choose, total_count, value)
    return probs.log() * value + (1 - probs).log() * (count - value) + choose


@register_density(dist.Poisson)
def poisson(value: Numeric, rate: Numeric, **_: Any) -> Polynomial:
    """``value log(rate) - rate - log(value!)``, the value a constant."""
    rate = polynomial(rate)
    return rate.log() * value - rate - of_constant(log_factorial, value)
