# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Steps of a curved family: along the natural gradient in its own coordinates.

An exponential family moves on a straight line in natural parameters, ``(1 - rho) natural + rho
message``, which at rho = 1 is the coordinate update. A curved family has no such line: its natural
gradient is a direction at a point, that of a linear model, and its Fisher matrix F may be nearly
singular there (a column of W near 0), so that a shorter step of the same direction is no help. A
step of size rho solves

    ( rho F + (1 - rho) C ) step = rho gradient

with C the Fisher matrix of the variable together with the noise that it is made of, which is never
singular. At rho = 1 it is the natural gradient, towards 0 it becomes ``rho C^-1 gradient``, and for
every rho the ELBO rises along it. No step changes a variance by more than its own size, and the
mean is moved in the metric of the *new* covariance, as in the improved rule (arXiv 2002.10060):
with that of a covariance twenty times too wide it would overshoot as far.
"""

from typing import Any, Protocol

from ..families import Natural


class CurvedGeometry(Protocol):
    """A curved family at one point, whose coordinates stand for natural parameters."""

    def damped_step(self, direction: Natural, rho: float) -> Natural:
        """The step of a size in (0, 1].

        :param direction: the natural gradient, ``F^-1 gradient``.
        """


class CurvedStep:
    """The steps from a point towards a target, ``coordinates + F^-1 d(ELBO)/dcoordinates``.

    :param family: the curved family, whose ``at(coordinates)`` is its :class:`CurvedGeometry`.
    :param target: what stands in the place of the block's message.
    """

    def __init__(self, family: Any, coordinates: Natural, target: Natural) -> None:
        self.geometry: CurvedGeometry = family.at(coordinates)
        self.coordinates = coordinates
        self.direction = tuple(t - c for t, c in zip(target, coordinates, strict=True))

    def at(self, rho: float) -> Natural:
        """Where the step of a size in (0, 1] ends."""
        step = self.geometry.damped_step(self.direction, rho)
        return tuple(c + s for c, s in zip(self.coordinates, step, strict=True))
