# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A mixture's steps as an iteration that Anderson's acceleration knows.

Where components overlap, a step tells a part of what separates them, as in EM, and the distance to
the optimum shrinks by a share. The last steps are combined in the Fisher metric of component and
latents together, at the point where the newest began.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..families import Natural
from ..lifting import host
from .acceleration import Anderson
from .cone import Safety
from .mixture import FAMILY, Mixture, State, ValueAndGradient
from .taken import Taken


@dataclass(frozen=True, eq=False)
class LocalMixture:
    """The geometry of a mixture at one point, in its coordinates."""

    point: Natural

    def fisher(self, natural: Natural, vector: Natural) -> Natural:
        """``F vector``, F taken at the point, wherever ``natural`` is."""
        log_weights, _, precisions = self.point
        weights = log_weights.exp()
        odds = weights * vector[0] - weights * (weights @ vector[0])
        mean = weights.unsqueeze(-1) * (precisions @ vector[1].unsqueeze(-1)).squeeze(-1)
        covariance = torch.cholesky_inverse(torch.linalg.cholesky(precisions))
        spread = 0.5 * weights.reshape(-1, 1, 1) * (covariance @ vector[2] @ covariance)
        return odds, mean, spread

    def in_domain(self, natural: Natural) -> Tensor:
        """Whether every component is a normal."""
        return FAMILY.in_domain(natural)


@dataclass(frozen=True, eq=False)
class MixtureUnit:
    """A mixture near a point, as a block of the iteration: equal for as many components."""

    family: LocalMixture

    def __eq__(self, other: object) -> bool:
        return isinstance(other, MixtureUnit) and self._components == other._components

    def __hash__(self) -> int:
        return hash(self._components)

    @property
    def _components(self) -> int:
        return len(self.family.point[0])


@dataclass(frozen=True, eq=False)
class ElboOnPoints:
    """The ELBO of a state, a number with an error."""

    state: State

    @cached_property
    def elbo(self) -> float:
        """In nats."""
        return self.state.elbo

    @property
    def magnitude(self) -> float:
        """What its rounding error is a share of."""
        return self.state.slack

    def noise_against(self, other: "ElboOnPoints") -> float:
        """The standard error of the difference on the same points."""
        pooled = self._pairs - other._pairs
        share = self.state.mixture.log_weights.exp()
        variance = share.square() @ pooled.var(1) / pooled.shape[1]
        return math.sqrt(host.number(variance))

    @property
    def _pairs(self) -> Tensor:
        """Antithetic twins as one: # shape: (K, S / 2)"""
        ratio = self.state.log_ratio
        half = ratio.shape[1] // 2
        return 0.5 * (ratio[:, :half] + ratio[:, half : 2 * half])


class MixtureIteration:
    """One step of a mixture as Anderson's acceleration sees it.

    :param before: where it began; ``after`` where it ended.
    """

    is_exact = False

    def __init__(self, before: Mixture, after: State, log_joint: ValueAndGradient) -> None:
        self.before = before
        self.after = after
        self.log_joint = log_joint
        self.unit = MixtureUnit(LocalMixture(before.coordinates))

    @property
    def blocks(self) -> tuple[MixtureUnit, ...]:
        """The one unit."""
        return (self.unit,)

    def value(self, naturals: Mapping[MixtureUnit, Natural]) -> ElboOnPoints:
        """The ELBO on the points."""
        coordinates = naturals[self.unit]
        if coordinates is self.after.mixture.coordinates:
            return ElboOnPoints(self.after)
        return ElboOnPoints(State.at(Mixture(coordinates, self.before.noise), self.log_joint))

    def extrapolated(self, anderson: Anderson, safety: Safety) -> Natural | None:
        """Where to go instead of the end of the step; None where that is as good."""
        before, after = self.before.coordinates, self.after.mixture.coordinates
        taken = Taken({self.unit: before}, {self.unit: after})
        moved = anderson.extrapolate(self, taken, safety)
        if moved is None:
            return None
        log_weights, means, precisions = moved[self.unit]
        return log_weights.log_softmax(-1), means, 0.5 * (precisions + precisions.mT)
