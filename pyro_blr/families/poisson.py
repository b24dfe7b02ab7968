# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Poisson distribution of a count."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import log_factorials
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.gamma_functions import bregman_log
from pyro_blr.families.registry import register_family, unwrap


class Poisson(ExponentialFamily):
    """Poisson with rate r, element by element.

    - support: z = 0, 1, 2, ...
    - base measure: h(z) = 1/z!
    - sufficient statistic: T(z) = (z,)
    - natural: (log r,)
    - mean parameters: (r,)
    - log-partition: r; entropy: r - r log r + E[log z!]

    E[log z!] is a sum over the nodes of an integral, to rounding; from r = 256 on the asymptotic
    series of the entropy, to 1e-16 nats.
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
        return natural[0].abs() < math.inf

    def distribution(self, natural: Natural) -> Any:
        return dist.Poisson(natural[0].exp())

    def natural_of(self, distribution: Any) -> Natural:
        poisson = unwrap(distribution)
        if not isinstance(poisson, torch.distributions.Poisson):
            raise self.wrong_distribution(distribution)
        return (poisson.rate.log(),)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        return (covector[0] * (-natural[0]).exp(),)

    def log_base_measure(self, value: Tensor) -> Tensor:
        return -torch.lgamma(value + 1.0)

    def expected_log_base_measure(self, natural: Natural) -> Tensor:
        return -log_factorials.poisson_log_factorial(natural[0].exp())

    def entropy(self, natural: Natural) -> Tensor:
        return log_factorials.poisson_entropy(natural[0].exp())

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        # r_q (r_p/r_q - 1 - log(r_p/r_q)): no difference of two large rates.
        return natural_q[0].exp() * bregman_log((natural_p[0] - natural_q[0]).exp())


register_family(Poisson, torch.distributions.Poisson)
