# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of parameters from Jeffreys' prior, ``sqrt(det G)``: two samplers that share no draw.

Both take parameters in a box as ``theta = low + (high - low) sin(angle)^2``, in which the prior of
a probability is flat. The density is smooth and periodic in the angles, so that a random walk has
no boundary to run into, and weights of evenly drawn angles are bounded.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..counts import is_count
from .finite_model import FiniteModel

#: The share of proposals that a random walk in several dimensions best accepts (Gelman et al.).
ACCEPTED = 0.3

#: The longest step: the density repeats itself after pi, so that longer ones reach nothing new.
LONGEST = 0.5 * torch.pi


@dataclass(frozen=True)
class ParameterDraws:
    """Draws of parameters with weights.

    :param theta: # shape: (chains, draws, parameters)
    :param weight: their sum is 1. # shape: (chains, draws)
    :param how: they were made, in words.
    """

    theta: Tensor
    weight: Tensor
    how: str

    @property
    def effective(self) -> float:
        """How many draws of one weight would be worth as much, were all independent."""
        return float(1.0 / self.weight.square().sum())

    def mean(self, values: Tensor) -> tuple[float, float]:
        """The mean of a function of the parameter, and its standard error.

        Chains are independent of each other, draws within a chain need not be: of one chain the
        error is not known, and infinite.

        :param values: at the draws. # shape: (chains, draws)
        """
        if values.shape != self.weight.shape:
            raise errors.ShapeError(
                f"the values have the shape {tuple(values.shape)}, and the draws "
                f"{tuple(self.weight.shape)}. Mend: one value for each draw, f(draws.theta)."
            )
        mean = (self.weight * values).sum()
        apart = (self.weight * (values - mean)).sum(-1)
        count = len(apart)
        if count == 1:
            return float(mean), math.inf
        error = (apart.square().sum() * count / (count - 1)).sqrt()
        return float(mean), float(error)


def jeffreys_walk(
    model: FiniteModel,
    low: Tensor,
    high: Tensor,
    chains: int = 200,
    draws: int = 100,
    thin: int = 5,
    warm_up: int = 100,
    law: str = "joint",
) -> ParameterDraws:
    """Draw from Jeffreys' prior by random walks (Metropolis), many side by side.

    :param model: whose prior it is.
    :param low: the box's lower corner. # shape: (parameters,)
    :param high: its upper corner. # shape: (parameters,)
    :param chains: how many walks.
    :param draws: of each walk.
    :param thin: steps from one draw to the next.
    :param warm_up: steps before the first draw, in which the step's size is found.
    :param law: ``"joint"`` or ``"visible"``: whose Fisher matrix.
    :raises SingularFisherError: if the Fisher matrix is singular in the whole box.
    """
    _check_counts(chains=chains, draws=draws, thin=thin)
    if warm_up:
        _check_counts(warm_up=warm_up)
    low, high = _box(low, high)
    density = _density(model, low, high, law)
    angle = _angles(chains, len(low))
    value, size, kept = density(angle), 0.5, []
    for step in range(warm_up + draws * thin):
        proposed = (angle + size * torch.randn_like(angle)) % torch.pi
        new = density(proposed)
        is_taken = torch.rand_like(new).log() < new - value
        angle = torch.where(is_taken.unsqueeze(-1), proposed, angle)
        value = torch.where(is_taken, new, value)
        if step < warm_up:
            size = min(LONGEST, size * 2.0 ** (float(is_taken.double().mean()) - ACCEPTED))
        elif (step - warm_up) % thin == thin - 1:
            kept.append(angle)
    _check(value)
    theta = _theta(torch.stack(kept, 1), low, high)
    weight = torch.full(theta.shape[:2], 1.0 / theta[..., 0].numel(), dtype=torch.float64)
    return ParameterDraws(theta, weight, f"random walks of step {size:.2g} in the angles")


def jeffreys_weighted(
    model: FiniteModel, low: Tensor, high: Tensor, draws: int = 20_000, law: str = "joint"
) -> ParameterDraws:
    """Draw evenly in the angles, and weigh by Jeffreys' prior: independent draws.

    :param model: whose prior it is.
    :param low: the box's lower corner. # shape: (parameters,)
    :param high: its upper corner. # shape: (parameters,)
    :param draws: how many.
    :param law: ``"joint"`` or ``"visible"``: whose Fisher matrix.
    :raises SingularFisherError: if the Fisher matrix is singular in the whole box.
    """
    _check_counts(draws=draws)
    low, high = _box(low, high)
    angle = _angles(draws, len(low))
    value = _density(model, low, high, law)(angle)
    _check(value)
    weight = value.softmax(0).unsqueeze(-1)
    return ParameterDraws(_theta(angle, low, high).unsqueeze(1), weight, "even angles, weighed")


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if not is_count(count):
            raise errors.ArgumentError(
                f"{name}={count!r} makes no draws. Mend: a whole number, 1 or more."
            )


def _angles(count: int, size: int) -> Tensor:
    return 0.5 * torch.pi * torch.rand(count, size, dtype=torch.float64)


def _theta(angle: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """The parameters; rounding must not put them on a face of the box, which has probability 0."""
    theta = low + (high - low) * angle.sin().square()
    return torch.maximum(torch.minimum(theta, high.nextafter(low)), low.nextafter(high))


def _density(model: FiniteModel, low: Tensor, high: Tensor, law: str) -> Callable[[Tensor], Tensor]:
    """The log density in the angles, up to a constant."""

    def density(angle: Tensor) -> Tensor:
        inside = model.at(_theta(angle, low, high)).log_jeffreys(law)
        return inside + (2.0 * angle).sin().abs().log().sum(-1)

    return density


def _box(low: Any, high: Any) -> tuple[Tensor, Tensor]:
    """The corners of a box, in float64.

    :raises ArgumentError: if they are none.
    """
    low, high = (torch.as_tensor(c, dtype=torch.float64) for c in (low, high))
    if (
        low.shape != high.shape
        or low.dim() != 1
        or not bool(((low < high) & (high - low).isfinite()).all())
    ):
        raise errors.ArgumentError(
            f"low, of shape {tuple(low.shape)}, and high, of shape {tuple(high.shape)}, are no "
            "corners of a box. Mend: two vectors of finite numbers, one a parameter, low < high."
        )
    return low, high


def _check(value: Tensor) -> None:
    if bool((value == -torch.inf).all()):
        raise errors.SingularFisherError(
            "the Fisher matrix is singular in the whole box, so that Jeffreys' prior is 0 there. "
            'Mend: law="joint", or a model with fewer parameters.'
        )
