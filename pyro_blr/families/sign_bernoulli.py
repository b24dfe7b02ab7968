# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Bernoulli distribution of a number that is -1 or 1."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.bernoulli import Bernoulli
from pyro_blr.families.registry import register_family, unwrap
from pyro_blr.families.sign_distribution import SignBernoulliDistribution, signs

_BITS = Bernoulli()


class SignBernoulli(ExponentialFamily):
    """Bernoulli of -1 and 1, with probability p of 1, element by element.

    - support: z in {-1, 1}
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (z,)
    - natural: ((log p - log(1 - p))/2,)
    - mean parameters: (2 p - 1,) = (tanh natural,)
    - log-partition: log(2 cosh natural); entropy: -p log p - (1 - p) log(1 - p)
    """

    name = "SignBernoulli"
    event_dim = 0
    natural_event_dims = (0,)
    support = signs
    distribution_type = SignBernoulliDistribution

    def log_partition(self, natural: Natural) -> Tensor:
        return torch.logaddexp(natural[0], -natural[0])

    def mean_params(self, natural: Natural) -> MeanParams:
        return (natural[0].tanh(),)

    def natural(self, mean_params: MeanParams) -> Natural:
        return (mean_params[0].atanh(),)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return (value,)

    def in_domain(self, natural: Natural) -> Tensor:
        return natural[0].abs() < math.inf

    def distribution(self, natural: Natural) -> Any:
        return SignBernoulliDistribution(logits=2 * natural[0])

    def natural_of(self, distribution: Any) -> Natural:
        law = unwrap(distribution)
        if not isinstance(law, SignBernoulliDistribution):
            raise self.wrong_distribution(distribution)
        return (0.5 * law.logits,)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        return (covector[0] * torch.cosh(natural[0]).square(),)

    def entropy(self, natural: Natural) -> Tensor:
        return _BITS.entropy((2 * natural[0],))

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        return _BITS.kl((2 * natural_q[0],), (2 * natural_p[0],))

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        return logsigmoid(2 * natural[0] * value)


register_family(SignBernoulli, SignBernoulliDistribution)
