# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A family as a user would write it: the least that the contract asks for, and h(z) = 1/z!."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import ExponentialFamily, MeanParams, Natural

# Enough for the rates of the tests, at most 30: the tail beyond 200 is below 1e-80.
COUNTS = torch.arange(200.0, dtype=torch.float64)


class Poisson(ExponentialFamily):
    """Poisson with rate r, element by element.

    - support: z = 0, 1, 2, ...
    - base measure: h(z) = 1/z!
    - sufficient statistic: T(z) = (z,)
    - natural: (log r,)
    - mean parameters: (r,)
    - log-partition: r; entropy: r - r log r + E[log z!]
    """

    name = "Poisson"
    event_dim = 0
    natural_event_dims = (0,)
    support = constraints.nonnegative_integer
    distribution_type = dist.Poisson

    def log_partition(self, natural: Natural) -> Tensor:
        return natural[0].exp()

    def mean_params(self, natural: Natural) -> MeanParams:
        return (natural[0].exp(),)

    def natural(self, mean_params: MeanParams) -> Natural:
        return (mean_params[0].log(),)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return (value,)

    def in_domain(self, natural: Natural) -> Tensor:
        return natural[0].abs() < torch.inf

    def distribution(self, natural: Natural) -> Any:
        return dist.Poisson(natural[0].exp())

    def natural_of(self, distribution: Any) -> Natural:
        return (distribution.rate.log(),)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        return (covector[0] / natural[0].exp(),)

    def log_base_measure(self, value: Tensor) -> Tensor:
        return -torch.lgamma(value + 1.0)

    def expected_log_base_measure(self, natural: Natural) -> Tensor:
        counts = torch.arange(len(COUNTS), dtype=natural[0].dtype, device=natural[0].device)
        log_base = -torch.lgamma(counts + 1.0)
        log_probs = natural[0].unsqueeze(-1) * counts - natural[0].unsqueeze(-1).exp() + log_base
        return (log_probs.exp() * log_base).sum(-1)
