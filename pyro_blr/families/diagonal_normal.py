# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The normal distribution of a real vector, with a diagonal covariance."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.errors import ArgumentError
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.normal import Normal
from pyro_blr.families.registry import register_family, unwrap

_ELEMENT = Normal()


class DiagonalNormal(ExponentialFamily):
    """Normal of a D-vector with means m_d and precisions S_d, independent of each other.

    - support: real D-vector z
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (z, z^2), element by element
    - natural: (S m, -S/2)
    - mean parameters: (m, m^2 + 1/S)
    - log-partition: sum_d S m^2/2 - log(S)/2 + log(2 pi)/2; entropy: sum_d 1/2 + log(2 pi)/2 -
      log(S)/2

    It is found by name only: the family of ``Normal(...).to_event(1)`` is
    :class:`~pyro_blr.families.MultivariateNormal`, which holds the posterior's covariances too.
    """

    name = "DiagonalNormal"
    event_dim = 1
    natural_event_dims = (1, 1)
    support = constraints.real_vector
    distribution_type = dist.Independent
    has_rsample = True

    def log_partition(self, natural: Natural) -> Tensor:
        return _ELEMENT.log_partition(natural).sum(-1)

    def mean_params(self, natural: Natural) -> MeanParams:
        return _ELEMENT.mean_params(natural)

    def natural(self, mean_params: MeanParams) -> Natural:
        return _ELEMENT.natural(mean_params)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return _ELEMENT.sufficient_statistics(value)

    def in_domain(self, natural: Natural) -> Tensor:
        return _ELEMENT.in_domain(natural).all(-1)

    def distribution(self, natural: Natural) -> Any:
        return _ELEMENT.distribution(natural).to_event(1)

    def natural_of(self, distribution: Any) -> Natural:
        normal = unwrap(distribution)
        if not isinstance(normal, torch.distributions.Normal) or not normal.batch_shape:
            raise self.wrong_distribution(distribution)
        return _ELEMENT.natural_of(normal)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        return _ELEMENT.inverse_fisher(natural, covector)

    def fisher(self, natural: Natural, vector: Natural) -> tuple[Tensor, ...]:
        return _ELEMENT.fisher(natural, vector)

    def entropy(self, natural: Natural) -> Tensor:
        return _ELEMENT.entropy(natural).sum(-1)

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        return _ELEMENT.kl(natural_q, natural_p).sum(-1)

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        return _ELEMENT.log_prob(natural, value).sum(-1)

    def rsample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        return _ELEMENT.rsample(natural, sample_shape)

    def wrong_distribution(self, distribution: Any) -> ArgumentError:
        """Return the error to raise for a distribution of another family."""
        return ArgumentError(
            f"A {type(distribution).__name__} is not in the family {self.name}. Mend: pass "
            "Normal(loc, scale).to_event(1), with loc and scale of the shape (*batch, D)."
        )


register_family(DiagonalNormal, by_name=True)
