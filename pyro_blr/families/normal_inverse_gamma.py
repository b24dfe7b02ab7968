# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The joint distribution of a normal vector and the variance that scales it."""

from typing import Any

import torch
from torch import Tensor

from pyro_blr.families.base import Natural
from pyro_blr.families.inverse_gamma import InverseGamma
from pyro_blr.families.joint_distributions import (
    NormalInverseGammaDistribution,
    vector_then_positive,
)
from pyro_blr.families.normal_gamma import NormalGamma
from pyro_blr.families.reciprocal import ReciprocalFamily, mirrored_natural
from pyro_blr.families.registry import register_family, unwrap


class NormalInverseGamma(ReciprocalFamily):
    """Joint law of z and s: s is InverseGamma(a, b) and z, given s, normal (m, s P^-1).

    - support: v = (z_1, ..., z_D, s) with real z and positive s
    - base measure: h(v) = 1
    - sufficient statistic: T(v) = (log s, 1/s, z/s, z z'/s)
    - natural: (-a - 1 - D/2, -b - m'P m/2, P m, -P/2)
    - mean parameters: (log b - psi(a), a/b, m a/b, P^-1 + m m' a/b)
    - log-partition: log Gamma(a) - a log b - log|P|/2 + D log(2 pi)/2; entropy: that of
      InverseGamma(a, b) + D (1 + log(2 pi) - psi(a) + log b)/2 - log|P|/2

    It is the law of (z, 1/tau) where (z, tau) is :class:`NormalGamma`.
    """

    name = "NormalInverseGamma"
    event_dim = 1
    natural_event_dims = (0, 0, 1, 2)
    support = vector_then_positive
    distribution_type = NormalInverseGammaDistribution
    has_rsample = True
    of = NormalGamma()
    scale_family = InverseGamma()

    def location(self, natural: Natural) -> Tensor:
        """Return m, the mean of z  # shape: (*batch, D)"""
        return self.of.location(natural)

    def conditional_covariance(self, natural: Natural) -> Tensor:
        """Return P^-1, the covariance of z at s = 1  # shape: (*batch, D, D)"""
        return self.of.conditional_covariance(natural)

    def scale_marginal(self, natural: Natural) -> Natural:
        """Return the natural parameters of the InverseGamma of s, (-a - 1, -b)."""
        return mirrored_natural(self.of.scale_marginal(mirrored_natural(natural)))

    def marginal_location(self, natural: Natural) -> Any:
        """Return the law of z alone, a Student t with 2 a degrees of freedom, as Pyro has it."""
        return self.of.marginal_location(mirrored_natural(natural))

    def reciprocal(self, value: Tensor) -> Tensor:
        return torch.cat([value[..., :-1], value[..., -1:].reciprocal()], -1)

    def positive_part(self, value: Tensor) -> Tensor:
        return value[..., -1]

    def distribution(self, natural: Natural) -> Any:
        first, second = self.scale_marginal(natural)
        with self.naming_domain():
            return NormalInverseGammaDistribution(
                self.location(natural), -2.0 * natural[3], -first - 1.0, -second
            )

    def natural_of(self, distribution: Any) -> Natural:
        joint = unwrap(distribution)
        if not isinstance(joint, NormalInverseGammaDistribution):
            raise self.wrong_distribution(distribution)
        return mirrored_natural(
            self.of.packed(joint.loc, joint.precision_matrix, joint.concentration, joint.rate)
        )


register_family(NormalInverseGamma)
