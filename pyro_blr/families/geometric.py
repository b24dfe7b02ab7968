# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The geometric distribution of the failures before the first success."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.odds import log_odds
from pyro_blr.families.registry import register_family, unwrap


class Geometric(ExponentialFamily):
    """Geometric with success probability p, element by element; the success is not counted.

    - support: z = 0, 1, 2, ...
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (z,)
    - natural: (log(1 - p),)
    - mean parameters: ((1 - p)/p,)
    - log-partition: -log p; entropy: -log p - log(1 - p) (1 - p)/p
    """

    name = "Geometric"
    event_dim = 0
    natural_event_dims = (0,)
    support = constraints.nonnegative_integer
    distribution_type = dist.Geometric

    def log_partition(self, natural: Natural) -> Tensor:
        return -(-torch.expm1(natural[0])).log()

    def mean_params(self, natural: Natural) -> MeanParams:
        return (torch.expm1(-natural[0]).reciprocal(),)

    def natural(self, mean_params: MeanParams) -> Natural:
        return (-torch.log1p(mean_params[0].reciprocal()),)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return (value,)

    def in_domain(self, natural: Natural) -> Tensor:
        return (natural[0] < 0.0) & (natural[0] > -math.inf)

    def distribution(self, natural: Natural) -> Any:
        return dist.Geometric(logits=-self.log_partition(natural) - natural[0])

    def natural_of(self, distribution: Any) -> Natural:
        geometric = unwrap(distribution)
        if not isinstance(geometric, torch.distributions.Geometric):
            raise self.wrong_distribution(distribution)
        return (logsigmoid(-log_odds(geometric)),)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # The variance m (m + 1) of the mean m = 1/(exp(-n) - 1).
        inverse_mean = torch.expm1(-natural[0])
        return (covector[0] * inverse_mean * inverse_mean / (1.0 + inverse_mean),)


register_family(Geometric, torch.distributions.Geometric)
