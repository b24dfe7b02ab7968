# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The von Mises distribution of an angle."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import bessel
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.normal import LOG_TWO_PI
from pyro_blr.families.registry import register_family, unwrap


def _square(natural: Natural) -> Tensor:
    """Return k^2."""
    return natural[0] * natural[0] + natural[1] * natural[1]


class VonMises(ExponentialFamily):
    """Von Mises with the direction m and the concentration k, element by element.

    - support: angles z in radians, from -pi to pi
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (cos z, sin z)
    - natural: (k cos m, k sin m)
    - mean parameters: (A cos m, A sin m) with A = I_1(k)/I_0(k)
    - log-partition: log(2 pi I_0(k)); entropy: that - k A

    All natural parameters are in the domain, also (0, 0), the uniform law of an angle; Pyro's
    ``VonMises`` needs k > 0. Its ``log_prob`` is right to about 1e-7, this one's to rounding.
    """

    name = "VonMises"
    event_dim = 0
    natural_event_dims = (0, 0)
    support = constraints.real
    distribution_type = dist.VonMises

    def log_partition(self, natural: Natural) -> Tensor:
        return bessel.log_i0(_square(natural)) + LOG_TWO_PI

    def mean_params(self, natural: Natural) -> MeanParams:
        ratio = bessel.ratio(_square(natural))
        return ratio * natural[0], ratio * natural[1]

    def natural(self, mean_params: MeanParams) -> Natural:
        resultant = torch.hypot(*mean_params)
        defect = torch.where(resultant < 1.0, 1.0 - resultant, math.nan)
        concentration = bessel.inverse_mean(defect)
        # k/A has no 0/0 at k = 0.
        factor = bessel.ratio(concentration * concentration).reciprocal()
        return factor * mean_params[0], factor * mean_params[1]

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return value.cos(), value.sin()

    def in_domain(self, natural: Natural) -> Tensor:
        return (natural[0].abs() < math.inf) & (natural[1].abs() < math.inf)

    def distribution(self, natural: Natural) -> Any:
        with self.naming_domain():
            return dist.VonMises(torch.atan2(natural[1], natural[0]), torch.hypot(*natural))

    def natural_of(self, distribution: Any) -> Natural:
        von_mises = unwrap(distribution)
        if not isinstance(von_mises, torch.distributions.VonMises):
            raise self.wrong_distribution(distribution)
        concentration = von_mises.concentration
        return concentration * von_mises.loc.cos(), concentration * von_mises.loc.sin()

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # F = rho I + 2 rho' n n', whose eigenvalues are A' along n and rho across it.
        square = _square(natural)
        ratio = bessel.ratio(square)
        along = natural[0] * covector[0] + natural[1] * covector[1]
        pull = 2.0 * bessel.ratio_slope(square) * along / bessel.mean_slope(square)
        first, second = (c - pull * n for c, n in zip(covector, natural, strict=True))
        return first / ratio, second / ratio

    def entropy(self, natural: Natural) -> Tensor:
        return bessel.entropy(_square(natural)) + LOG_TWO_PI

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        # With the angle d between q and p: log I_0(p)/I_0(q) + (q - p) A_q + p A_q (1 - cos d),
        # and q p (1 - cos d) = (q x p)^2/(q p + <q, p>) where they point the same way.
        square_q, square_p = _square(natural_q), _square(natural_p)
        k_q, k_p = square_q.sqrt(), square_p.sqrt()
        scaled: Tensor = (torch.special.i0e(k_p) / torch.special.i0e(k_q)).log()
        same = scaled + (k_p - k_q) * bessel.mean_defect(square_q)
        dot = natural_q[0] * natural_p[0] + natural_q[1] * natural_p[1]
        cross = natural_q[0] * natural_p[1] - natural_q[1] * natural_p[0]
        together = k_q * k_p + dot.clamp(min=0.0)
        turned = torch.where(dot > 0.0, cross * cross / together, k_q * k_p - dot)
        return same + bessel.ratio(square_q) * turned


register_family(VonMises, torch.distributions.VonMises)
