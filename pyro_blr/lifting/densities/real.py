# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities on the real line, and of a Uniform."""

import math

import pyro.distributions as dist
from torch import Tensor

from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from .registry import attributes, register_density
from .special import broadcast_dims, of_constant

LOG_2PI = math.log(2 * math.pi)


@register_density(dist.Normal, attributes("loc", "scale"))
def normal(value: Numeric, loc: Numeric, scale: Numeric) -> Polynomial:
    """``-(value - loc)^2 / (2 scale^2) - log(scale) - log(2 pi) / 2``."""
    scale = polynomial(scale)
    residual = polynomial(value) - loc
    return residual**2 * scale**-2.0 * -0.5 - scale.log() - 0.5 * LOG_2PI


@register_density(dist.Uniform)
def uniform(value: Numeric, low: Numeric, high: Numeric) -> Polynomial:
    """``-log(high - low)``, the bounds constants; the support is checked elsewhere."""
    width = polynomial(high) - low
    if not width.is_constant:
        raise NotPolynomial("a bound that depends on a latent")
    level = of_constant(_log_uniform, low, high)
    return level.expanded(broadcast_dims(polynomial(value), level))


def _log_uniform(low: Tensor, high: Tensor) -> Tensor:
    return -(high.double() - low.double()).log()
