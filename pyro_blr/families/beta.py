# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The beta distribution of a proportion."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import dirichlet
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.registry import register_family, unwrap


def _concentration(natural: Natural) -> Tensor:
    """Return the concentration of z and 1 - z as a Dirichlet  # shape: (*batch, 2)."""
    return torch.stack(torch.broadcast_tensors(*natural), -1) + 1.0


class Beta(ExponentialFamily):
    """Beta with concentrations a (of z) and b (of 1 - z): a Dirichlet of two proportions.

    - support: z between 0 and 1
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (log z, log(1 - z))
    - natural: (a - 1, b - 1)
    - mean parameters: (psi(a) - psi(a + b), psi(b) - psi(a + b))
    - log-partition: log B(a, b); entropy: log B(a, b) - (a - 1) mean_1 - (b - 1) mean_2
    """

    name = "Beta"
    event_dim = 0
    natural_event_dims = (0, 0)
    support = constraints.unit_interval
    distribution_type = dist.Beta
    has_rsample = True

    def log_partition(self, natural: Natural) -> Tensor:
        return dirichlet.log_normalizer(_concentration(natural))

    def mean_params(self, natural: Natural) -> MeanParams:
        return dirichlet.expected_logs(_concentration(natural)).unbind(-1)

    def natural(self, mean_params: MeanParams) -> Natural:
        return (dirichlet.concentration_of(torch.stack(mean_params, -1)) - 1.0).unbind(-1)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return value.log(), torch.log1p(-value)

    def in_domain(self, natural: Natural) -> Tensor:
        first, second = natural
        inside = (first > -1.0) & (first < math.inf)
        return inside & (second > -1.0) & (second < math.inf)

    def distribution(self, natural: Natural) -> Any:
        return dist.Beta(natural[0] + 1.0, natural[1] + 1.0)

    def natural_of(self, distribution: Any) -> Natural:
        beta = unwrap(distribution)
        if not isinstance(beta, torch.distributions.Beta):
            raise self.wrong_distribution(distribution)
        return beta.concentration1 - 1.0, beta.concentration0 - 1.0

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        stacked = torch.stack(covector, -1)
        return dirichlet.inverse_fisher_of(_concentration(natural), stacked).unbind(-1)

    def entropy(self, natural: Natural) -> Tensor:
        return dirichlet.entropy_of(_concentration(natural))

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        return dirichlet.kl_of(_concentration(natural_q), _concentration(natural_p))

    def noise_shape(self, natural: Natural) -> tuple[int, ...]:
        return (*self.batch_shape(natural), 2)

    def at_noise(self, natural: Natural, noise: Tensor) -> Tensor:
        return dirichlet.proportions_at(_concentration(natural), noise)[..., 0]

    def expected_power(self, natural: Natural, power: float) -> Tensor:
        concentration = natural[0] + 1.0
        return dirichlet.power_of(concentration, concentration + natural[1] + 1.0, power)


register_family(Beta, torch.distributions.Beta)
