# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The normal distribution of a real number whose standard deviation is given."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.errors import ArgumentError
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.normal import LOG_TWO_PI
from pyro_blr.families.registry import register_family, unwrap


class FixedScaleNormal(ExponentialFamily):
    """Normal with mean m and a standard deviation s that is given, element by element.

    - support: real z
    - base measure: h(z) = Normal(z; 0, s^2), not constant
    - sufficient statistic: T(z) = (z,)
    - natural: (m/s^2,)
    - mean parameters: (m,)
    - log-partition: m^2/(2 s^2); entropy: 1/2 + log(2 pi)/2 + log(s)

    Under the Bayesian Learning Rule its mean takes steps of gradient descent, ``m + rho s^2 g``
    with g the gradient of the expected log joint: that of the model smoothed by the width s. It is
    found by name only, and named for a latent as ``families={"z": FixedScaleNormal(0.5)}``.

    :param float scale: s, fixed: two scales are two families.
    :raises ArgumentError: if it is not one positive number.
    """

    name = "FixedScaleNormal"
    event_dim = 0
    natural_event_dims = (0,)
    support = constraints.real
    distribution_type = dist.Normal
    has_rsample = True

    def __init__(self, scale: float = 1.0) -> None:
        value = float(scale)
        if not 0 < value < math.inf:
            raise ArgumentError(f"FixedScaleNormal: scale = {scale!r}. Mend: a number > 0.")
        self.scale = value

    @property
    def variance(self) -> float:
        """s^2."""
        return self.scale * self.scale

    def log_partition(self, natural: Natural) -> Tensor:
        return 0.5 * self.variance * natural[0] * natural[0]

    def mean_params(self, natural: Natural) -> MeanParams:
        return (self.variance * natural[0],)

    def natural(self, mean_params: MeanParams) -> Natural:
        return (mean_params[0] / self.variance,)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return (value,)

    def in_domain(self, natural: Natural) -> Tensor:
        return natural[0].abs() < math.inf

    def distribution(self, natural: Natural) -> Any:
        mean = self.variance * natural[0]
        return dist.Normal(mean, torch.full_like(mean, self.scale))

    def natural_of(self, distribution: Any) -> Natural:
        normal = unwrap(distribution)
        if not isinstance(normal, torch.distributions.Normal):
            raise self.wrong_distribution(distribution)
        eps = torch.finfo(normal.scale.dtype).eps
        if bool(((normal.scale - self.scale).abs() > 4 * eps * self.scale).any()):
            raise ArgumentError(
                f"A Normal of another scale is not in the family {self!r}. Mend: "
                "FixedScaleNormal(scale) with its scale, or Normal()."
            )
        return (normal.loc / self.variance,)

    def log_base_measure(self, value: Tensor) -> Tensor:
        return -0.5 * (value / self.scale).square() - math.log(self.scale) - 0.5 * LOG_TWO_PI

    def expected_log_base_measure(self, natural: Natural) -> Tensor:
        squares = self.variance * natural[0] * natural[0] + 1.0
        return -0.5 * squares - math.log(self.scale) - 0.5 * LOG_TWO_PI

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        return (covector[0] / self.variance,)

    def entropy(self, natural: Natural) -> Tensor:
        entropy = 0.5 * (1.0 + LOG_TWO_PI) + math.log(self.scale)
        return torch.full_like(natural[0], entropy)

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        return 0.5 * self.variance * (natural_q[0] - natural_p[0]).square()

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        return self.log_base_measure(value - self.variance * natural[0])

    def rsample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        mean = self.variance * natural[0]
        noise = torch.randn((*sample_shape, *mean.shape), dtype=mean.dtype, device=mean.device)
        return mean + self.scale * noise


register_family(FixedScaleNormal, by_name=True)
