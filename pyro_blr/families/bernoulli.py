# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Bernoulli distribution of a 0/1 number."""

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


class Bernoulli(ExponentialFamily):
    """Bernoulli with probability p, element by element.

    - support: z in {0, 1}
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (z,)
    - natural: (log p - log(1 - p),)
    - mean parameters: (p,)
    - log-partition: -log(1 - p); entropy: -p log p - (1 - p) log(1 - p)
    """

    name = "Bernoulli"
    event_dim = 0
    natural_event_dims = (0,)
    support = constraints.boolean
    distribution_type = dist.Bernoulli

    def log_partition(self, natural: Natural) -> Tensor:
        # Not softplus, which is the identity above 20 and then wrong by exp(-20).
        return -logsigmoid(-natural[0])

    def mean_params(self, natural: Natural) -> MeanParams:
        return (natural[0].sigmoid(),)

    def natural(self, mean_params: MeanParams) -> Natural:
        return (mean_params[0].logit(),)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return (value,)

    def in_domain(self, natural: Natural) -> Tensor:
        return natural[0].abs() < math.inf

    def distribution(self, natural: Natural) -> Any:
        return dist.Bernoulli(logits=natural[0])

    def natural_of(self, distribution: Any) -> Natural:
        bernoulli = unwrap(distribution)
        if not isinstance(bernoulli, torch.distributions.Bernoulli):
            raise self.wrong_distribution(distribution)
        return (log_odds(bernoulli),)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        return (covector[0] / (natural[0].sigmoid() * (-natural[0]).sigmoid()),)

    def entropy(self, natural: Natural) -> Tensor:
        # Two positive terms: A - natural * p cancels for large logits.
        (logit,) = natural
        minus = -logit
        return -(logit.sigmoid() * logsigmoid(logit) + minus.sigmoid() * logsigmoid(minus))

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        q, p = natural_q[0], natural_p[0]
        ones = q.sigmoid() * (logsigmoid(q) - logsigmoid(p))
        return ones + (-q).sigmoid() * (logsigmoid(-q) - logsigmoid(-p))


register_family(Bernoulli, torch.distributions.Bernoulli)
