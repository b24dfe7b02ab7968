# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How many points each component of a mixture has, and which."""

import math

import torch
from torch import Tensor

from .. import errors
from ..estimators import gaussian_points
from ..guides.memory import POINTS_PER_ELEMENT, first_points
from ..lifting import host
from ..steps.mixture import Mixture
from ..steps.mixture_memory import MixtureMemory

#: The most points of a component, and the most numbers of the programs at all points.
MOST, MOST_NUMBERS = 2**14, 2**28
#: Independent sets of points by which the error of one is told.
SETS = 4
#: The fewest and the most times as many points at a time.
LEAST_GROWTH, MOST_GROWTH = 4, 16


class MixturePoints:
    """The points of one engine.

    :param memory: where their number and their seed are.
    :param fixed: the number that the user asked for, or None to find it.
    """

    def __init__(self, memory: MixtureMemory, fixed: int | None) -> None:
        self.memory = memory
        self.fixed = fixed
        self._numbers = 1
        self._kept: tuple[tuple[int, ...], Tensor] | None = None

    def begin(self, means: Tensor, numbers: int) -> None:
        """Choose their number, once.

        :param means: of the components. # shape: (K, D)
        :param numbers: that the model's programs hold at one point.
        :raises ArgumentError: for a number of the user's that is too small.
        """
        self._numbers = numbers
        least = POINTS_PER_ELEMENT * means.shape[-1]
        if self.fixed is not None and (self.fixed < least or self.fixed % 2):
            raise errors.ArgumentError(
                f"num_draws={self.fixed} is too few for a mixture over {means.shape[-1]} numbers, "
                f"or odd: points are in pairs, two of them for each number. Mend: {least} at "
                "least, or leave it out."
            )
        if self.memory.seed < 0:
            self.memory.renew(self.fixed or first_points(means.shape[-1]), host.seed())

    def common(self, means: Tensor) -> Tensor:
        """The noise that successive steps have in common. # shape: (K, S, D)"""
        key = (self.memory.seed, self.memory.count, *means.shape)
        if self._kept is None or self._kept[0] != key:
            self._kept = key, self._noise(means, self.memory.seed)
        return self._kept[1]

    def _noise(self, means: Tensor, seed: int) -> Tensor:
        count, size = self.memory.count, means.shape[-1]
        each = [gaussian_points(count, size, seed + k) for k in range(len(means))]
        return torch.stack(each).to(means)

    def other(self, mixture: Mixture) -> Mixture:
        """The mixture with points of its own, which are the same at each call."""
        return Mixture(mixture.coordinates, self._noise(mixture.means, self.memory.seed + 2**30))

    def fresh(self, mixture: Mixture) -> list[Mixture]:
        """The mixture with several independent sets of points."""
        own = (self._noise(mixture.means, host.seed()) for _ in range(SETS))
        return [Mixture(mixture.coordinates, noise) for noise in own]

    def grow(self, ratio: float, means: Tensor) -> bool:
        """Renew the points, more of them; False at the most.

        :param ratio: of their error to the tolerance.
        """
        room = MOST_NUMBERS // (len(means) * max(self._numbers, len(means) + means.shape[-1]))
        most = self.fixed or max(self.memory.count, min(MOST, 2 ** int(math.log2(max(1, room)))))
        if self.memory.count >= most:
            return False
        growth = 2 ** math.ceil(math.log2(min(MOST_GROWTH, max(LEAST_GROWTH, 2 * ratio))))
        self.memory.renew(min(most, self.memory.count * growth), host.seed())
        return True
