# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Steps of a curved family: along the natural gradient in its own coordinates, and no cone.

An exponential family steps along a straight line in natural parameters, ``(1 - rho) natural + rho
message``, which at rho = 1 is the coordinate update. A curved family's coordinates know of no such
line: the natural gradient is the direction at the point, and its length is a linear model's. With a
covariance twenty times too wide that model asks for -20 times the covariance. So a step changes no
variance by more than its own size, and the mean is moved in the metric of the *new* covariance, as
in the improved rule (arXiv 2002.10060); with the old one it would overshoot as far.
"""

from typing import Any, Protocol

from torch import Tensor

from ..families import Natural
from ..lifting import host


class CurvedFamily(Protocol):
    """What a step asks of a curved family. Its coordinates stand for natural parameters."""

    def relative_change(self, coordinates: Natural, direction: Natural) -> Tensor:
        """A bound on the change of any variance along a tangent vector, as a share of it."""

    def moved(self, coordinates: Natural, direction: Natural, rho: float) -> Natural:
        """``coordinates + rho direction``, the mean in the metric of the new covariance."""


class CurvedStep:
    """The steps from a point towards a target, ``coordinates + F^-1 d(ELBO)/dcoordinates``.

    :param target: what stands in the place of the block's message.
    """

    def __init__(self, family: Any, coordinates: Natural, target: Natural) -> None:
        self.family: CurvedFamily = family
        self.coordinates = coordinates
        self.direction = tuple(t - c for t, c in zip(target, coordinates, strict=True))
        change = host.number(family.relative_change(coordinates, self.direction))
        self.scale = 1.0

    def at(self, rho: float) -> Natural:
        """The step of a size in (0, 1]."""
        return self.family.moved(self.coordinates, self.direction, rho * self.scale)
