# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The families whose modes are M-steps: where ``<message, T(theta)>`` is largest.

Each is a conjugate family seen at a point: which statistics T it has, where a message puts its
mode, and which message of the same size has its mode at a given point. An element that no factor
of a call touches has the message 0 and stays where it is. Where there is no maximum inside the
support the mode is NaN, for the caller to report.

A step of size rho averages messages, ``(1 - rho) old + rho message``, from ``old = message_at``:
that is a step of size rho in the mean coordinates of the complete-data family, the natural gradient
in the metric of the joint complete-data Fisher information, and EM at rho = 1 (arXiv 2011.01170).

In its *chart* a point ranges over all real numbers, and ``<message, T>`` is concave with the
information matrix as the negative of its second derivative. The gradient map of that information,
``mean_coordinates``, is the part of ``message_at`` that moves with the point.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ..families import Natural
from .statistics import LOG, LOG1M, MEAN, SECOND, Statistic


class PointFamily(ABC):
    """A conjugate family of a parameter, of which only the mode is wanted."""

    @property
    @abstractmethod
    def name(self) -> str:
        """The name in tables and messages."""

    @property
    @abstractmethod
    def statistics(self) -> tuple[Statistic, ...]:
        """Which statistics T has."""

    @abstractmethod
    def values(self, point: Tensor) -> tuple[Tensor, ...]:
        """T(point), twice differentiable."""

    @abstractmethod
    def mode(self, message: Natural, point: Tensor) -> Tensor:
        """``argmax <message, T(theta)>``; NaN where it is not inside the support.

        :param point: the value of elements whose message is 0.
        """

    @abstractmethod
    def message_at(self, message: Natural, point: Tensor) -> Natural:
        """The message of the same size whose mode is the point."""

    @abstractmethod
    def inverse_information(self, message: Natural, point: Tensor, covector: Tensor) -> Tensor:
        """The inverse of the information in the chart times a covector.

        :param message: one whose mode is near the point; it gives the information its size.
        """

    def chart(self, point: Tensor) -> Tensor:
        """The coordinates in which every real number is allowed."""
        return point

    def point(self, chart: Tensor) -> Tensor:
        """The point at given coordinates, twice differentiable."""
        return chart

    def mean_coordinates(self, message: Natural, point: Tensor) -> Tensor:
        """A map whose derivative in the chart is the information."""
        return self.message_at(message, point)[0]

    def symmetric(self, gradient: tuple[Tensor, ...]) -> Natural:
        """The message from the gradient in the statistics."""
        return gradient


def _over(covector: Tensor, information: Tensor) -> Tensor:
    """Their quotient; an element without information keeps its covector, which is 0."""
    return covector / torch.where(information > 0, information, 1.0)


def _kept(untouched: Tensor, point: Tensor, mode: Tensor, inside: Tensor) -> Tensor:
    """The mode where there is one, the point where nothing was said, NaN elsewhere."""
    return torch.where(untouched, point, torch.where(inside, mode, torch.nan))


@dataclass(frozen=True)
class NormalPoint(PointFamily):
    """Normal, element by element: T = (theta, theta^2), mode ``-message_1 / (2 message_2)``."""

    name = "Normal"
    statistics = (MEAN, SECOND)

    def values(self, point: Tensor) -> tuple[Tensor, ...]:
        return point, point * point

    def mode(self, message: Natural, point: Tensor) -> Tensor:
        linear, precision = message[0], -2 * message[1]
        untouched = (linear == 0) & (precision == 0)
        return _kept(untouched, point, linear / precision, precision > 0)

    def message_at(self, message: Natural, point: Tensor) -> Natural:
        return -2 * message[1] * point, message[1]

    def inverse_information(self, message: Natural, point: Tensor, covector: Tensor) -> Tensor:
        return _over(covector, -2 * message[1])


@dataclass(frozen=True)
class MultivariateNormalPoint(PointFamily):
    """Multivariate normal: T = (theta, theta theta'), mode ``precision^-1 message_1``."""

    name = "MultivariateNormal"
    statistics = (MEAN, SECOND)

    def values(self, point: Tensor) -> tuple[Tensor, ...]:
        return point, point.unsqueeze(-1) * point.unsqueeze(-2)

    def symmetric(self, gradient: tuple[Tensor, ...]) -> Natural:
        return gradient[0], 0.5 * (gradient[1] + gradient[1].mT)

    def mode(self, message: Natural, point: Tensor) -> Tensor:
        untouched = (message[0] == 0) & (message[1] == 0).all(-1)
        return self.inverse_information(message, point, torch.where(untouched, point, message[0]))

    def inverse_information(self, message: Natural, point: Tensor, covector: Tensor) -> Tensor:
        # An element that nothing touches is held where it is by a unit precision of its own.
        untouched = (message[0] == 0) & (message[1] == 0).all(-1)
        precision = torch.diag_embed(untouched.to(point.dtype)) - 2 * message[1]
        factor, failed = torch.linalg.cholesky_ex(precision)
        solved = torch.cholesky_solve(covector.unsqueeze(-1), factor).squeeze(-1)
        return torch.where((failed == 0).unsqueeze(-1), solved, torch.nan)

    def message_at(self, message: Natural, point: Tensor) -> Natural:
        return (-2 * message[1] @ point.unsqueeze(-1)).squeeze(-1), message[1]


@dataclass(frozen=True)
class GammaPoint(PointFamily):
    """``theta ** power`` is Gamma: T = (log theta, theta ** power).

    ``a log theta + c theta^p`` is largest at ``theta^p = -a / (c p)``, if c < 0 and a p > 0. With
    p = 1 it is a Gamma (a rate), with p = -1 an inverse Gamma (a variance), with p = -2 a scale.
    """

    power: float

    @property
    def name(self) -> str:
        named = {1.0: "Gamma", -1.0: "InverseGamma"}
        return named.get(self.power, f"Gamma of the power {self.power:g}")

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        return LOG, ("power", self.power)

    def values(self, point: Tensor) -> tuple[Tensor, ...]:
        return point.log(), point**self.power

    def mode(self, message: Natural, point: Tensor) -> Tensor:
        log, power = message
        inside = (power < 0) & (log * self.power > 0)
        ratio = torch.where(inside, -log / (power * self.power), 1.0)
        return _kept((log == 0) & (power == 0), point, ratio ** (1 / self.power), inside)

    def message_at(self, message: Natural, point: Tensor) -> Natural:
        # The step is linear in theta^|p|: in a count over an exposure, in a mean square.
        log, power = message
        if self.power > 0:
            return self.mean_coordinates(message, point), power
        return log, -log / (self.power * point**self.power)

    def mean_coordinates(self, message: Natural, point: Tensor) -> Tensor:
        return -self.power * message[1] * point**self.power

    def chart(self, point: Tensor) -> Tensor:
        return point.log()

    def point(self, chart: Tensor) -> Tensor:
        return chart.exp()

    def inverse_information(self, message: Natural, point: Tensor, covector: Tensor) -> Tensor:
        return _over(covector, self.power * self.mean_coordinates(message, point))


@dataclass(frozen=True)
class ModifiedHalfNormalPoint(PointFamily):
    """T = (log theta, theta^p, theta^2p): a standard deviation that multiplies what it scales.

    ``a log theta + b x + c x^2`` with ``x = theta^p`` is largest at the positive root of
    ``a / p + b x + 2 c x^2 = 0``, if c < 0 and a p >= 0.
    """

    power: float
    name = "ModifiedHalfNormal"

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        return LOG, ("power", self.power), ("power", 2 * self.power)

    def values(self, point: Tensor) -> tuple[Tensor, ...]:
        return point.log(), point**self.power, point ** (2 * self.power)

    def mode(self, message: Natural, point: Tensor) -> Tensor:
        log, linear, square = message[0] / self.power, message[1], message[2]
        untouched = (log == 0) & (linear == 0) & (square == 0)
        root = (linear.square() - 8 * log * square).sqrt()
        # Of the two forms of the root the one that adds numbers of one sign.
        value = torch.where(linear > 0, (linear + root) / (-4 * square), 2 * log / (root - linear))
        inside = (square < 0) & (log >= 0) & (value > 0)
        value = torch.where(inside, value, 1.0)
        return _kept(untouched, point, value ** (1 / self.power), inside)

    def message_at(self, message: Natural, point: Tensor) -> Natural:
        value = point**self.power
        linear = -2 * message[2] * value - message[0] / (self.power * value)
        return message[0], linear, message[2]

    def mean_coordinates(self, message: Natural, point: Tensor) -> Tensor:
        log, _, square = message
        return self.power * (log * point.log() - square * point ** (2 * self.power))

    def chart(self, point: Tensor) -> Tensor:
        return point.log()

    def point(self, chart: Tensor) -> Tensor:
        return chart.exp()

    def inverse_information(self, message: Natural, point: Tensor, covector: Tensor) -> Tensor:
        # At the mode this is minus the second derivative; unlike that, it is positive everywhere.
        log, _, square = message
        curvature = log - 2 * self.power * square * point ** (2 * self.power)
        return _over(covector, self.power * curvature)


@dataclass(frozen=True)
class BetaPoint(PointFamily):
    """Beta: T = (log theta, log(1 - theta)), mode ``message_1 / (message_1 + message_2)``."""

    name = "Beta"
    statistics = (LOG, LOG1M)

    def values(self, point: Tensor) -> tuple[Tensor, ...]:
        return point.log(), torch.log1p(-point)

    def mode(self, message: Natural, point: Tensor) -> Tensor:
        first, second = message
        inside = (first > 0) & (second > 0)
        return _kept((first == 0) & (second == 0), point, first / (first + second), inside)

    def message_at(self, message: Natural, point: Tensor) -> Natural:
        total = message[0] + message[1]
        return total * point, total * (1 - point)

    def chart(self, point: Tensor) -> Tensor:
        return torch.logit(point)

    def point(self, chart: Tensor) -> Tensor:
        return torch.sigmoid(chart)

    def inverse_information(self, message: Natural, point: Tensor, covector: Tensor) -> Tensor:
        return _over(covector, (message[0] + message[1]) * point * (1 - point))


@dataclass(frozen=True)
class DirichletPoint(PointFamily):
    """Dirichlet: T = log theta, mode the normalised message."""

    name = "Dirichlet"
    statistics = (LOG,)

    def values(self, point: Tensor) -> tuple[Tensor, ...]:
        return (point.log(),)

    def mode(self, message: Natural, point: Tensor) -> Tensor:
        (counts,) = message
        untouched = (counts == 0).all(-1, keepdim=True)
        inside = (counts > 0).all(-1, keepdim=True)
        return _kept(untouched, point, counts / counts.sum(-1, keepdim=True), inside)

    def message_at(self, message: Natural, point: Tensor) -> Natural:
        return (message[0].sum(-1, keepdim=True) * point,)

    def mean_coordinates(self, message: Natural, point: Tensor) -> Tensor:
        return self.message_at(message, point)[0][..., :-1]

    def chart(self, point: Tensor) -> Tensor:
        return (point[..., :-1] / point[..., -1:]).log()

    def point(self, chart: Tensor) -> Tensor:
        return torch.softmax(torch.nn.functional.pad(chart, (0, 1)), -1)

    def inverse_information(self, message: Natural, point: Tensor, covector: Tensor) -> Tensor:
        # n (diag(p) - pp') over all but the last has the inverse (diag(1/p) + 11'/p_last) / n.
        total = message[0].sum(-1, keepdim=True)
        solved = covector / point[..., :-1] + covector.sum(-1, keepdim=True) / point[..., -1:]
        return _over(solved, total)
