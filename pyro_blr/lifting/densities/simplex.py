# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities on the unit interval and on the simplex."""

import pyro.distributions as dist
import torch
from torch import Tensor

from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from .registry import attributes, register_density
from .special import lgamma, lgamma_of_sum, of_constant


@register_density(dist.Beta, attributes("concentration1", "concentration0"))
def beta(value: Numeric, concentration1: Numeric, concentration0: Numeric) -> Polynomial:
    """``(a - 1) log(value) + (b - 1) log(1 - value) - log B(a, b)``, a and b constants."""
    a, b = polynomial(concentration1), polynomial(concentration0)
    if not a.is_constant or not b.is_constant:
        raise NotPolynomial("`lgamma` of a latent")
    log_normalizer = (
        of_constant(lgamma_of_sum, concentration1, concentration0)
        - of_constant(lgamma, concentration1)
        - of_constant(lgamma, concentration0)
    )
    value = polynomial(value)
    return value.log() * (a - 1) + (1 - value).log() * (b - 1) + log_normalizer


@register_density(dist.Dirichlet)
def dirichlet(value: Numeric, concentration: Numeric) -> Polynomial:
    """``sum_k (a_k - 1) log(value_k) - log B(a)``, a a constant."""
    powers = (polynomial(value).log() * (polynomial(concentration) - 1)).sum((-1,))
    return powers + of_constant(_log_dirichlet_normalizer, concentration)


def _log_dirichlet_normalizer(concentration: Tensor) -> Tensor:
    a = concentration.double()
    return torch.lgamma(a.sum(-1)) - torch.lgamma(a).sum(-1)
