# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The inverse gamma distribution of a positive number, such as a variance."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families.base import Natural
from pyro_blr.families.gamma import Gamma
from pyro_blr.families.reciprocal import ReciprocalFamily, mirrored_natural
from pyro_blr.families.registry import register_family, unwrap


class InverseGamma(ReciprocalFamily):
    """Law of z where 1/z is Gamma with shape a and rate b, element by element.

    - support: positive z
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (log z, 1/z)
    - natural: (-a - 1, -b)
    - mean parameters: (log b - psi(a), a/b)
    - log-partition: log Gamma(a) - a log b; entropy: a + log b + log Gamma(a) - (1 + a) psi(a)
    """

    name = "InverseGamma"
    event_dim = 0
    natural_event_dims = (0, 0)
    support = constraints.positive
    distribution_type = dist.InverseGamma
    has_rsample = True
    of = Gamma()

    def reciprocal(self, value: Tensor) -> Tensor:
        return value.reciprocal()

    def positive_part(self, value: Tensor) -> Tensor:
        return value

    def distribution(self, natural: Natural) -> Any:
        return dist.InverseGamma(-natural[0] - 1.0, -natural[1])

    def natural_of(self, distribution: Any) -> Natural:
        inverse_gamma = unwrap(distribution)
        if not isinstance(inverse_gamma, torch.distributions.InverseGamma):
            raise self.wrong_distribution(distribution)
        return -inverse_gamma.concentration - 1.0, -inverse_gamma.rate

    def expected_power(self, natural: Natural, power: float) -> Tensor | None:
        return self.of.expected_power(mirrored_natural(natural), -power)


register_family(InverseGamma, torch.distributions.InverseGamma)
