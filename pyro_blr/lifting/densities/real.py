# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities on the real line, of a Uniform, of an improper prior, of a point."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ...shapes import broadcast_shapes
from .. import constants, host
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


@register_density(dist.Uniform, attributes("low", "high"))
def uniform(value: Numeric, low: Numeric, high: Numeric) -> Polynomial:
    """``-log(high - low)``, the bounds constants; the support is checked elsewhere."""
    width = polynomial(high) - low
    if not width.is_constant:
        raise NotPolynomial("a bound that depends on a latent")
    level = of_constant(_log_uniform, low, high)
    return level.expanded(broadcast_dims(polynomial(value), level))


def _log_uniform(low: Tensor, high: Tensor) -> Tensor:
    return -(high.double() - low.double()).log()


@register_density(dist.Laplace, attributes("loc", "scale"))
def laplace(value: Numeric, loc: Numeric, scale: Numeric) -> Polynomial:
    """``-|value - loc| / scale - log(2 scale)``, the distance of value and loc a constant."""
    scale = polynomial(scale)
    return of_constant(_abs, value, loc) * scale**-1.0 * -1.0 - scale.log() - math.log(2)


def _abs(value: Tensor, loc: Tensor) -> Tensor:
    return (value.double() - loc.double()).abs()


@register_density(dist.Gumbel, attributes("loc", "scale"))
def gumbel(value: Numeric, loc: Numeric, scale: Numeric) -> Polynomial:
    """``-u - exp(-u) - log(scale)``, ``u = (value - loc) / scale``, the scale a constant."""
    scale = polynomial(scale)
    negative = (polynomial(loc) - value) * scale**-1.0
    return negative - negative.exp() - scale.log()


@register_density(dist.ImproperUniform, attributes("batch_shape", "event_dim"))
def improper_uniform(value: Numeric, batch_shape: torch.Size, event_dim: int) -> Polynomial:
    """0 everywhere: the density of no law, which the likelihood has to make proper."""
    shape = polynomial(value).shape
    return Polynomial((), ()).expand_to(
        broadcast_shapes(batch_shape, shape[: len(shape) - event_dim])
    )


@register_density(dist.Delta, attributes("v", "log_density"))
def delta(value: Numeric, v: Numeric, log_density: Numeric = 0.0, **_: Any) -> Polynomial:
    """``log_density`` at the point itself; elsewhere there is no density."""
    if isinstance(value, Tensor) and isinstance(v, Tensor):
        at_point = constants.memo(_are_equal, (value, v))
    else:
        at_point = value is v
    if at_point:
        return polynomial(log_density)
    raise NotPolynomial("a point mass away from its point")


def _are_equal(value: Tensor, point: Tensor) -> bool:
    return value.shape == point.shape and host.truth((value == point).all())
