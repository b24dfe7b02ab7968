# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities of positive values."""

import math

import pyro.distributions as dist

from ..polynomial import Numeric, Polynomial, polynomial
from .real import normal
from .registry import attributes, register_density
from .special import lgamma, of_constant


@register_density(dist.HalfNormal, attributes("scale"))
def half_normal(value: Numeric, scale: Numeric) -> Polynomial:
    """Twice the normal density around 0; the support is checked elsewhere."""
    return normal(value, 0.0, scale) + math.log(2)


@register_density(dist.LogNormal, attributes("loc", "scale"))
def log_normal(value: Numeric, loc: Numeric, scale: Numeric) -> Polynomial:
    """The normal density of ``log(value)``, less ``log(value)``."""
    log_value = polynomial(value).log()
    return normal(log_value, loc, scale) - log_value


@register_density(dist.Gamma)
def gamma(value: Numeric, concentration: Numeric, rate: Numeric) -> Polynomial:
    """``(a - 1) log(value) - b value + a log(b) - log Gamma(a)``, the shape a a constant."""
    shape = polynomial(concentration)
    log_normalizer = polynomial(rate).log() * shape - of_constant(lgamma, concentration)
    return polynomial(value).log() * (shape - 1) - polynomial(value) * rate + log_normalizer


@register_density(dist.Exponential, attributes("rate"))
def exponential(value: Numeric, rate: Numeric) -> Polynomial:
    """``log(rate) - rate value``."""
    return polynomial(rate).log() - polynomial(value) * rate
