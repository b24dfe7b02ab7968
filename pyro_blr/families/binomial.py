# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The binomial distribution of the successes among a fixed number of trials."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_blr.families import log_factorials
from pyro_blr.families.base import Natural
from pyro_blr.families.bernoulli import Bernoulli
from pyro_blr.families.counted import CountedFamily
from pyro_blr.families.odds import log_odds
from pyro_blr.families.registry import register_family, unwrap


class Binomial(CountedFamily):
    """Binomial with n = ``total_count`` trials of probability p, element by element.

    - support: z = 0, 1, ..., n
    - base measure: h(z) = n!/(z! (n - z)!)
    - sufficient statistic: T(z) = (z,)
    - natural: (log p - log(1 - p),)
    - mean parameters: (n p,)
    - log-partition: -n log(1 - p); entropy: -n (p log p + (1 - p) log(1 - p)) - E[log h(z)]

    E[log h] is the sum over all n + 1 values: exact, and as long.
    """

    name = "Binomial"
    event_dim = 0
    natural_event_dims = (0,)
    distribution_type = dist.Binomial
    unit = Bernoulli()

    @property
    def support(self) -> Any:
        """The integers from 0 to n."""
        return constraints.integer_interval(0, self.total_count)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return (value,)

    def distribution(self, natural: Natural) -> Any:
        return dist.Binomial(self.total_count, logits=natural[0])

    def natural_of(self, distribution: Any) -> Natural:
        binomial = unwrap(distribution)
        if not isinstance(binomial, torch.distributions.Binomial):
            raise self.wrong_distribution(distribution)
        self.require_count(binomial.total_count)
        return (log_odds(binomial),)

    def log_base_measure(self, value: Tensor) -> Tensor:
        return log_factorials.log_multinomial(torch.stack([value, self.total_count - value], -1))

    def expected_log_base_measure(self, natural: Natural) -> Tensor:
        log_probs = torch.stack([logsigmoid(natural[0]), logsigmoid(-natural[0])], -1)
        return log_factorials.expected_log_multinomial(int(self.total_count), log_probs)


register_family(Binomial, torch.distributions.Binomial)
