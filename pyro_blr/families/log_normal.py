# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The log-normal distribution of a positive number."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.normal import Normal
from pyro_blr.families.registry import register_family, unwrap

_LOGARITHM = Normal()


class LogNormal(ExponentialFamily):
    """Law of z where log z is normal with mean m and precision S, element by element.

    - support: positive z
    - base measure: h(z) = 1/z
    - sufficient statistic: T(z) = (log z, (log z)^2)
    - natural: (S m, -S/2)
    - mean parameters: (m, m^2 + 1/S)
    - log-partition: S m^2/2 - log(S)/2 + log(2 pi)/2; entropy: m + 1/2 + log(2 pi)/2 - log(S)/2
    """

    name = "LogNormal"
    event_dim = 0
    natural_event_dims = (0, 0)
    support = constraints.positive
    distribution_type = dist.LogNormal
    has_rsample = True

    def log_partition(self, natural: Natural) -> Tensor:
        return _LOGARITHM.log_partition(natural)

    def mean_params(self, natural: Natural) -> MeanParams:
        return _LOGARITHM.mean_params(natural)

    def natural(self, mean_params: MeanParams) -> Natural:
        return _LOGARITHM.natural(mean_params)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return _LOGARITHM.sufficient_statistics(value.log())

    def in_domain(self, natural: Natural) -> Tensor:
        return _LOGARITHM.in_domain(natural)

    def distribution(self, natural: Natural) -> Any:
        normal = _LOGARITHM.distribution(natural)
        return dist.LogNormal(normal.loc, normal.scale)

    def natural_of(self, distribution: Any) -> Natural:
        log_normal = unwrap(distribution)
        if not isinstance(log_normal, torch.distributions.LogNormal):
            raise self.wrong_distribution(distribution)
        return _LOGARITHM.natural_of(log_normal.base_dist)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        return _LOGARITHM.inverse_fisher(natural, covector)

    def log_base_measure(self, value: Tensor) -> Tensor:
        return -value.log()

    def expected_log_base_measure(self, natural: Natural) -> Tensor:
        return -_LOGARITHM.mean_params(natural)[0]

    def entropy(self, natural: Natural) -> Tensor:
        return _LOGARITHM.entropy(natural) + _LOGARITHM.mean_params(natural)[0]

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        return _LOGARITHM.kl(natural_q, natural_p)

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        log_value = value.log()
        return _LOGARITHM.log_prob(natural, log_value) - log_value

    def expected_power(self, natural: Natural, power: float) -> Tensor:
        variance = -0.5 / natural[1]
        return (power * (natural[0] + 0.5 * power) * variance).exp()


register_family(LogNormal, torch.distributions.LogNormal)
