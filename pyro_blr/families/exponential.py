# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The exponential distribution of a positive number."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.gamma import Gamma
from pyro_blr.families.gamma_functions import bregman_log
from pyro_blr.families.registry import register_family, unwrap


class Exponential(ExponentialFamily):
    """Exponential with rate r, element by element: a Gamma whose shape is fixed at 1.

    - support: positive z
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (z,)
    - natural: (-r,)
    - mean parameters: (1/r,)
    - log-partition: -log r; entropy: 1 - log r
    """

    name = "Exponential"
    event_dim = 0
    natural_event_dims = (0,)
    support = constraints.positive
    distribution_type = dist.Exponential
    has_rsample = True

    def log_partition(self, natural: Natural) -> Tensor:
        return -(-natural[0]).log()

    def mean_params(self, natural: Natural) -> MeanParams:
        return (-natural[0].reciprocal(),)

    def natural(self, mean_params: MeanParams) -> Natural:
        return (-mean_params[0].reciprocal(),)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return (value,)

    def in_domain(self, natural: Natural) -> Tensor:
        return (natural[0] < 0.0) & (natural[0] > -math.inf)

    def distribution(self, natural: Natural) -> Any:
        return dist.Exponential(-natural[0])

    def natural_of(self, distribution: Any) -> Natural:
        exponential = unwrap(distribution)
        if not isinstance(exponential, torch.distributions.Exponential):
            raise self.wrong_distribution(distribution)
        return (-exponential.rate,)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        return (natural[0] * natural[0] * covector[0],)

    def entropy(self, natural: Natural) -> Tensor:
        return 1.0 - (-natural[0]).log()

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        return bregman_log(natural_p[0] / natural_q[0])

    def expected_power(self, natural: Natural, power: float) -> Tensor:
        return Gamma().expected_power((torch.zeros_like(natural[0]), natural[0]), power)


register_family(Exponential, torch.distributions.Exponential)
