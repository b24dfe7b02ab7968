# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The multinomial distribution of how often each class was drawn."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import log_factorials
from pyro_blr.families.base import Natural
from pyro_blr.families.categorical import Categorical, all_log_odds
from pyro_blr.families.counted import CountedFamily
from pyro_blr.families.odds import class_log_odds
from pyro_blr.families.registry import register_family, unwrap


class Multinomial(CountedFamily):
    """Multinomial with n = ``total_count`` draws of K classes; the last class is the reference.

    - support: K-vectors z of counts whose sum is n
    - base measure: h(z) = n!/(z_0! ... z_(K-1)!)
    - sufficient statistic: T(z) = (z without its last entry,)
    - natural: (log p_k - log p_(K-1) for k < K - 1,)
    - mean parameters: (n p_k for k < K - 1,)
    - log-partition: -n log p_(K-1); entropy: -n sum p_k log p_k - E[log h(z)]

    Each z_k is binomial, and E[log h] a sum over all n + 1 values of each: exact, and as long.
    """

    name = "Multinomial"
    event_dim = 1
    natural_event_dims = (1,)
    distribution_type = dist.Multinomial
    unit = Categorical()

    @property
    def support(self) -> Any:
        """Vectors of counts whose sum is n."""
        return constraints.multinomial(self.total_count)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return (value.narrow(-1, 0, value.shape[-1] - 1),)

    def distribution(self, natural: Natural) -> Any:
        return dist.Multinomial(int(self.total_count), logits=all_log_odds(natural))

    def natural_of(self, distribution: Any) -> Natural:
        multinomial = unwrap(distribution)
        if not isinstance(multinomial, torch.distributions.Multinomial):
            raise self.wrong_distribution(distribution)
        self.require_count(multinomial.total_count)
        return (class_log_odds(multinomial._categorical),)

    def log_base_measure(self, value: Tensor) -> Tensor:
        return log_factorials.log_multinomial(value)

    def expected_log_base_measure(self, natural: Natural) -> Tensor:
        log_probs = all_log_odds(natural).log_softmax(-1)
        return log_factorials.expected_log_multinomial(int(self.total_count), log_probs)


register_family(Multinomial, torch.distributions.Multinomial)
