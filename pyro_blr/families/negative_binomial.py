# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The negative binomial distribution of a count with more spread than a Poisson's."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_blr.families import log_factorials
from pyro_blr.families.base import Natural
from pyro_blr.families.counted import CountedFamily
from pyro_blr.families.geometric import Geometric
from pyro_blr.families.odds import log_odds
from pyro_blr.families.registry import register_family, unwrap


class NegativeBinomial(CountedFamily):
    """Negative binomial: the successes, of probability p, before the k-th failure.

    - support: z = 0, 1, 2, ...
    - base measure: h(z) = Gamma(z + k)/(z! Gamma(k))
    - sufficient statistic: T(z) = (z,)
    - natural: (log p,)
    - mean parameters: (k p/(1 - p),)
    - log-partition: -k log(1 - p); entropy: -k (log(1 - p) + log(p) p/(1 - p)) - E[log h(z)]

    k = ``total_count`` is fixed and may be any positive number. As in Pyro p is the probability
    of what is counted, so that k = 1 is the geometric distribution of 1 - p. E[log h] is a sum
    over the nodes of an integral, to rounding.
    """

    name = "NegativeBinomial"
    event_dim = 0
    natural_event_dims = (0,)
    support = constraints.nonnegative_integer
    distribution_type = dist.NegativeBinomial
    unit = Geometric()
    fractional = True

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return (value,)

    def distribution(self, natural: Natural) -> Any:
        logits = natural[0] + self.unit.log_partition(natural)
        return dist.NegativeBinomial(self.total_count, logits=logits)

    def natural_of(self, distribution: Any) -> Natural:
        negative_binomial = unwrap(distribution)
        if not isinstance(negative_binomial, torch.distributions.NegativeBinomial):
            raise self.wrong_distribution(distribution)
        self.require_count(negative_binomial.total_count)
        return (logsigmoid(log_odds(negative_binomial)),)

    def log_base_measure(self, value: Tensor) -> Tensor:
        k = torch.as_tensor(self.total_count, dtype=value.dtype, device=value.device)
        return torch.lgamma(value + k) - torch.lgamma(value + 1.0) - torch.lgamma(k)

    def expected_log_base_measure(self, natural: Natural) -> Tensor:
        (unit_mean,) = self.unit.mean_params(natural)
        return log_factorials.negative_binomial_log_choose(self.total_count, unit_mean)


register_family(NegativeBinomial, torch.distributions.NegativeBinomial)
