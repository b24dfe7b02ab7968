# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities on the unit interval and on the simplex."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from .registry import attributes, register_density
from .special import lgamma, lgamma_of_sum, log_complement, number_of, of_constant


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
    return polynomial(value).log() * (a - 1) + log_complement(value) * (b - 1) + log_normalizer


@register_density(dist.Dirichlet)
def dirichlet(value: Numeric, concentration: Numeric) -> Polynomial:
    """``sum_k (a_k - 1) log(value_k) - log B(a)``, a a constant."""
    powers = (polynomial(value).log() * (polynomial(concentration) - 1)).sum((-1,))
    return powers + of_constant(_log_dirichlet_normalizer, concentration)


def _log_dirichlet_normalizer(concentration: Tensor) -> Tensor:
    a = concentration.double()
    return torch.lgamma(a.sum(-1)) - torch.lgamma(a).sum(-1)


@register_density(dist.Kumaraswamy, attributes("concentration1", "concentration0"))
def kumaraswamy(value: Numeric, concentration1: Numeric, concentration0: Numeric) -> Polynomial:
    """``log(a b) + (a - 1) log(value) + (b - 1) log(1 - value^a)``, a a constant."""
    a, b = polynomial(concentration1), polynomial(concentration0)
    powers = polynomial(value).log() * (a - 1)
    return a.log() + b.log() + powers + _log_complement_of_power(value, concentration1) * (b - 1)


def _log_complement_of_power(value: Numeric, power: Numeric) -> Polynomial:
    """``log(1 - value^power)``; of a latent value only at the power 1."""
    if isinstance(power, Polynomial):
        raise NotPolynomial("a power that depends on a latent")
    if not isinstance(value, Polynomial):
        return of_constant(_log1m_power, value, power)
    return (1 - value ** number_of(power, "a concentration that is not one number")).log()


def _log1m_power(value: Tensor, power: Tensor) -> Tensor:
    return (-(value.double() ** power.double())).log1p()


@register_density(dist.ContinuousBernoulli)
def continuous_bernoulli(
    value: Numeric, probs: Numeric | None = None, logits: Numeric | None = None, **_: Any
) -> Polynomial:
    """``value log(p / (1 - p)) + log(1 - p) + log C(p)``, the probability p a constant."""
    of_logits = probs is None
    given = logits if of_logits else probs
    if given is None or isinstance(given, Polynomial):
        raise NotPolynomial("a ContinuousBernoulli's normaliser of a latent")
    slope = of_constant(_slope_of_logits if of_logits else _slope_of_probs, given)
    level = of_constant(_level_of_logits if of_logits else _level_of_probs, given)
    return polynomial(value) * slope + level


def _level_of_probs(probs: Tensor) -> Tensor:
    """The log density at 0."""
    return _at(probs, torch.zeros_like(probs))


def _slope_of_probs(probs: Tensor) -> Tensor:
    """The log density at 1 less that at 0: the logit."""
    return _at(probs, torch.ones_like(probs)) - _at(probs, torch.zeros_like(probs))


def _at(probs: Tensor, value: Tensor) -> Tensor:
    result: Tensor = dist.ContinuousBernoulli(probs=probs.double()).log_prob(value.double())
    return result


def _level_of_logits(logits: Tensor) -> Tensor:
    return _level_of_probs(torch.sigmoid(logits.double()))


def _slope_of_logits(logits: Tensor) -> Tensor:
    return logits.double()
