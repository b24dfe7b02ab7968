# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The normal distribution of a real number."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.gamma_functions import bregman_log
from pyro_blr.families.registry import register_family, unwrap

LOG_TWO_PI = math.log(2.0 * math.pi)


class Normal(ExponentialFamily):
    """Normal with mean m and precision S, element by element.

    - support: real z
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (z, z^2)
    - natural: (S m, -S/2)
    - mean parameters: (m, m^2 + 1/S)
    - log-partition: S m^2/2 - log(S)/2 + log(2 pi)/2; entropy: 1/2 + log(2 pi)/2 - log(S)/2
    """

    name = "Normal"
    event_dim = 0
    natural_event_dims = (0, 0)
    support = constraints.real
    distribution_type = dist.Normal
    has_rsample = True

    def log_partition(self, natural: Natural) -> Tensor:
        first, precision = natural[0], -2.0 * natural[1]
        return 0.5 * (first * first / precision - precision.log() + LOG_TWO_PI)

    def mean_params(self, natural: Natural) -> MeanParams:
        variance = -0.5 / natural[1]
        mean = natural[0] * variance
        return mean, mean * mean + variance

    def natural(self, mean_params: MeanParams) -> Natural:
        mean, second = mean_params
        precision = (second - mean * mean).reciprocal()
        return mean * precision, -0.5 * precision

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return value, value * value

    def in_domain(self, natural: Natural) -> Tensor:
        first, second = natural
        # Of a subnormal precision the variance overflows, and the mean is 0 times infinity.
        least = torch.finfo(second.dtype).tiny
        return (first.abs() < math.inf) & (second < -least) & (second > -math.inf)

    def distribution(self, natural: Natural) -> Any:
        variance = -0.5 / natural[1]
        return dist.Normal(natural[0] * variance, variance.sqrt())

    def natural_of(self, distribution: Any) -> Natural:
        normal = unwrap(distribution)
        if not isinstance(normal, torch.distributions.Normal):
            raise self.wrong_distribution(distribution)
        precision = normal.scale.square().reciprocal()
        return normal.loc * precision, -0.5 * precision

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # The covector is a change of (m, m^2 + V); dS = -S^2 dV and d(S m) = m dS + S dm.
        precision = -2.0 * natural[1]
        mean = natural[0] / precision
        d_variance = covector[1] - 2.0 * mean * covector[0]
        d_precision = -precision * precision * d_variance
        return precision * covector[0] + mean * d_precision, -0.5 * d_precision

    @torch.no_grad()
    def fisher(self, natural: Natural, vector: Natural) -> tuple[Tensor, ...]:
        # V = 1/S: dV = -V^2 dS and dm = V (d(S m) - m dS).
        variance = -0.5 / natural[1]
        mean, d_precision = natural[0] * variance, -2.0 * vector[1]
        d_mean = variance * (vector[0] - mean * d_precision)
        return d_mean, 2.0 * mean * d_mean - variance * variance * d_precision

    def entropy(self, natural: Natural) -> Tensor:
        entropy = 0.5 * (1.0 + LOG_TWO_PI - (-2.0 * natural[1]).log())
        return entropy.expand(self.batch_shape(natural))

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        ratio = natural_p[1] / natural_q[1]
        gap = 0.5 * (natural_p[0] / natural_p[1] - natural_q[0] / natural_q[1])
        return 0.5 * bregman_log(ratio) - natural_p[1] * gap * gap

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        # Centred: S m z - S z^2/2 - A loses (m/sd)^2 eps.
        precision = -2.0 * natural[1]
        centred = value - natural[0] / precision
        return 0.5 * (precision.log() - LOG_TWO_PI - precision * centred * centred)

    def rsample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        variance = -0.5 / natural[1]
        mean = natural[0] * variance
        noise = torch.randn((*sample_shape, *mean.shape), dtype=mean.dtype, device=mean.device)
        return mean + variance.sqrt() * noise


register_family(Normal, torch.distributions.Normal)
