# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities of positive values."""

import math

import pyro.distributions as dist
from torch import Tensor

from .. import constants
from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from .real import normal
from .registry import attributes, register_density
from .special import as_tensor, lgamma, of_constant


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


@register_density(dist.InverseGamma, attributes("concentration", "rate"))
def inverse_gamma(value: Numeric, concentration: Numeric, rate: Numeric) -> Polynomial:
    """``a log(b) - log Gamma(a) - (a + 1) log(value) - b / value``, the shape a a constant."""
    shape, value = polynomial(concentration), polynomial(value)
    log_normalizer = polynomial(rate).log() * shape - of_constant(lgamma, concentration)
    return log_normalizer - value.log() * (shape + 1) - value**-1.0 * rate


@register_density(dist.Chi2, attributes("df"))
def chi2(value: Numeric, df: Numeric) -> Polynomial:
    """The density of a Gamma of shape ``df / 2`` and rate 1/2."""
    if isinstance(df, Polynomial):
        raise NotPolynomial("`lgamma` of a latent")
    return gamma(value, constants.memo(_half, (as_tensor(df),)), 0.5)


def _half(value: Tensor) -> Tensor:
    return value.double() / 2


@register_density(dist.Weibull, attributes("scale", "concentration"))
def weibull(value: Numeric, scale: Numeric, concentration: Numeric) -> Polynomial:
    """``log(c) - log(x) + c u - exp(c u)``, ``u = log(x / s)``: exact in powers of s."""
    c, log_value = polynomial(concentration), polynomial(value).log()
    powers = (log_value - polynomial(scale).log()) * c
    return c.log() - log_value + powers - powers.exp()


@register_density(dist.Pareto, attributes("scale", "alpha"))
def pareto(value: Numeric, scale: Numeric, alpha: Numeric) -> Polynomial:
    """``log(alpha) + alpha log(scale) - (alpha + 1) log(value)``, the scale a constant."""
    if isinstance(scale, Polynomial):
        raise NotPolynomial("a bound that depends on a latent")
    alpha = polynomial(alpha)
    return alpha.log() + polynomial(scale).log() * alpha - polynomial(value).log() * (alpha + 1)
