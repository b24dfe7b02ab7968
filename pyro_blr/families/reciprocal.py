# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Families of a variance whose precision is in another family."""

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural


def mirrored_natural(natural: Natural) -> Natural:
    """Return the natural parameters of the law of 1/s from those of s, or the other way round.

    In ``s^n`` the power changes its sign, and ``|d(1/s)/ds| = s^-2``: so ``n -> -n - 2``.

    :param natural: natural parameters whose first one is the power of s.
    """
    return -natural[0] - 2.0, *natural[1:]


def mirrored(blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Return blocks with the sign of the first one changed, as log(1/s) = -log(s) asks.

    :param blocks: statistics, mean parameters, or changes of either coordinates.
    """
    return -blocks[0], *blocks[1:]


class ReciprocalFamily(ExponentialFamily):
    """The law of a value whose positive part s is 1/t, where t has a law of another family.

    The first statistic must be log t, and the others the same in t = 1/s: then everything is the
    other family's, with the first block mirrored.
    """

    of: ClassVar[ExponentialFamily]
    """The family of the value with t in the place of s."""

    @abstractmethod
    def reciprocal(self, value: Tensor) -> Tensor:
        """Return the value with 1/s in the place of s."""

    @abstractmethod
    def positive_part(self, value: Tensor) -> Tensor:
        """Return s  # shape: (*batch,)"""

    def log_partition(self, natural: Natural) -> Tensor:
        return self.of.log_partition(mirrored_natural(natural))

    def mean_params(self, natural: Natural) -> MeanParams:
        return mirrored(self.of.mean_params(mirrored_natural(natural)))

    def natural(self, mean_params: MeanParams) -> Natural:
        return mirrored_natural(self.of.natural(mirrored(mean_params)))

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return mirrored(self.of.sufficient_statistics(self.reciprocal(value), natural))

    def in_domain(self, natural: Natural) -> Tensor:
        return self.of.in_domain(mirrored_natural(natural))

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        return mirrored(self.of.inverse_fisher(mirrored_natural(natural), mirrored(covector)))

    def entropy(self, natural: Natural) -> Tensor:
        # H[s] = H[t] + E[log |ds/dt|], and log |ds/dt| = 2 log s.
        return self.of.entropy(mirrored_natural(natural)) + 2.0 * self.mean_params(natural)[0]

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        return self.of.kl(mirrored_natural(natural_q), mirrored_natural(natural_p))

    def noise_shape(self, natural: Natural) -> tuple[int, ...] | None:
        return self.of.noise_shape(mirrored_natural(natural))

    def at_noise(self, natural: Natural, noise: Tensor) -> Tensor:
        return self.reciprocal(self.of.at_noise(mirrored_natural(natural), noise))

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        density = self.of.log_prob(mirrored_natural(natural), self.reciprocal(value))
        return density - 2.0 * self.positive_part(value).log()
