# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The gamma distribution of a positive number."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import gamma_functions as fn
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.gamma_quantile import gamma_at
from pyro_blr.families.registry import register_family, unwrap

# E[z^k] is a short product of exact factors for these powers; the general formula has logarithms.
_LARGEST_PRODUCT = 4


class Gamma(ExponentialFamily):
    """Gamma with shape a and rate b, element by element.

    - support: positive z
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (log z, z)
    - natural: (a - 1, -b)
    - mean parameters: (psi(a) - log b, a/b)
    - log-partition: log Gamma(a) - a log b; entropy: a - log b + log Gamma(a) + (1 - a) psi(a)

    The way back from the mean parameters loses digits as the shape grows, whatever the method:
    they determine it through log(mean_2) - mean_1 = 1/2a + ..., so a rounding error eps there is
    a relative error 2 a eps in a.
    """

    name = "Gamma"
    event_dim = 0
    natural_event_dims = (0, 0)
    support = constraints.positive
    distribution_type = dist.Gamma
    has_rsample = True

    def log_partition(self, natural: Natural) -> Tensor:
        shape = natural[0] + 1.0
        return fn.log_gamma(shape) - shape * (-natural[1]).log()

    def mean_params(self, natural: Natural) -> MeanParams:
        shape, rate = natural[0] + 1.0, -natural[1]
        return fn.digamma(shape) - rate.log(), shape / rate

    def natural(self, mean_params: MeanParams) -> Natural:
        expected_log, mean = mean_params
        shape = fn.inverse_log_minus_digamma(mean.log() - expected_log)
        return shape - 1.0, -shape / mean

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return value.log(), value

    def in_domain(self, natural: Natural) -> Tensor:
        first, second = natural
        inside = (first > -1.0) & (first < math.inf)
        return inside & (second < 0.0) & (second > -math.inf)

    def distribution(self, natural: Natural) -> Any:
        return dist.Gamma(natural[0] + 1.0, -natural[1])

    def natural_of(self, distribution: Any) -> Natural:
        gamma = unwrap(distribution)
        if not isinstance(gamma, torch.distributions.Gamma):
            raise self.wrong_distribution(distribution)
        return gamma.concentration - 1.0, -gamma.rate

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # F = [[psi'(a), 1/b], [1/b, a/b^2]] has the determinant (a psi'(a) - 1)/b^2.
        shape, rate = natural[0] + 1.0, -natural[1]
        first, second = covector
        scaled = rate * second
        excess = fn.trigamma_excess(shape)
        d_shape = (shape * first - scaled) / excess
        # psi'(a) scaled - first, with psi'(a) = (1 + excess)/a: the large part is d_shape's.
        return d_shape, rate * (scaled - d_shape) / shape

    def entropy(self, natural: Natural) -> Tensor:
        return fn.unit_gamma_entropy(natural[0] + 1.0) - (-natural[1]).log()

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        # Stirling's main part of A and the rates together are p (r - 1 - log r).
        shape_q, shape_p = natural_q[0] + 1.0, natural_p[0] + 1.0
        ratio = (shape_q * natural_p[1]) / (shape_p * natural_q[1])
        return shape_p * fn.bregman_log(ratio) + fn.bregman_stirling(shape_p, shape_q)

    def noise_shape(self, natural: Natural) -> tuple[int, ...]:
        return tuple(self.batch_shape(natural))

    def at_noise(self, natural: Natural, noise: Tensor) -> Tensor:
        return gamma_at(noise, natural[0] + 1.0) / -natural[1]

    def expected_power(self, natural: Natural, power: float) -> Tensor:
        shape, rate = natural[0] + 1.0, -natural[1]
        inside = shape + power > 0.0
        # Any shape that has the moment will do where it diverges, to keep gradients finite.
        safe = torch.where(inside, shape, abs(power) + 1.0) if power < 0.0 else shape
        if power == int(power) and abs(power) <= _LARGEST_PRODUCT:
            moment = torch.ones_like(safe)
            for k in range(int(power)):
                moment = moment * ((safe + float(k)) / rate)
            for k in range(1, 1 - int(power)):
                moment = moment * (rate / (safe - float(k)))
        else:
            moment = (power * (safe / rate).log() + fn.power_correction(safe, power)).exp()
        return moment if power >= 0.0 else torch.where(inside, moment, math.inf)


register_family(Gamma, torch.distributions.Gamma)
