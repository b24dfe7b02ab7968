# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Whether a mixture whose steps have become short is at an optimum, or at a saddle that it leaves.

Components that share a mode repel each other slowly at first: steps are short for a while, and the
last of them say nothing of the direction in which they are about to part. The steps near a
stationary point are ``d(x) = -A (x - x*)``, with A symmetric in the Fisher metric; at a saddle A
has a negative eigenvalue, which Lanczos' method finds by differences of steps.
"""

import torch
from torch import Tensor

from ..lifting import host
from .lanczos import least_curvature
from .mixture import FAMILY, Gradient, Mixture, State, ValueAndGradient, unwhitened, whitened
from .mixture_convergence import LEAST

#: Products with A: each is two gradients at all points.
ITERATIONS = 16

#: Half a difference, in standard deviations of the component with the least weight: there the
#: whitened change is longer by one over the root of the weight, and is to stay in the cone.
HALF = 0.03

#: Lengths that are tried along a direction, in the Fisher metric.
LENGTHS = (1.0, 0.5, 0.25, 0.125)


def way_out(state: State, others: list[Mixture], log_joint: ValueAndGradient) -> Mixture | None:
    """A mixture beside a saddle, with more of the ELBO; None where none is found, at an optimum.

    :param state: where steps have become short.
    :param others: the same mixture at independent sets of points, on which the ELBO is to rise as
        well, by more than a standard error: what rises on one set may be its noise.
    """
    start = _inside(state.mixture, _random(state.mixture))
    least, _, direction = least_curvature(
        lambda v: _product(state.mixture, log_joint, v), start, ITERATIONS
    )
    if not least < -LEAST:
        return None
    elbo, beside = state.elbo + state.slack, None
    for length in (sign * t for t in LENGTHS for sign in (1.0, -1.0)):
        moved = _moved(state.mixture, length * direction)
        if moved is not None and (found := State.at(moved, log_joint).elbo) > elbo:
            elbo, beside = found, moved
    if beside is None:
        return None
    rises = torch.tensor([_rise(other, beside, log_joint) for other in others])
    error = rises.std() / len(rises) ** 0.5
    return beside if host.truth(rises.mean() > error) else None


def _rise(mixture: Mixture, beside: Mixture, log_joint: ValueAndGradient) -> float:
    """By how much the ELBO is higher beside a mixture, on the points of that one."""
    there = State.at(Mixture(beside.coordinates, mixture.noise), log_joint)
    return there.elbo - State.at(mixture, log_joint).elbo


def _random(mixture: Mixture) -> Tensor:
    """A random vector, the same on every device. # shape: (K (1 + D + D^2),)"""
    count, size = mixture.means.shape
    shape = count * (1 + size + size * size)
    return torch.randn(shape, dtype=mixture.means.dtype, device="cpu").to(mixture.means)


def _inside(mixture: Mixture, vector: Tensor) -> Tensor:
    """The part of a vector that is a change of a mixture: weights sum to 1, matrices symmetric."""
    return whitened(mixture, unwhitened(mixture, vector))


def _moved(mixture: Mixture, vector: Tensor) -> Mixture | None:
    """The mixture after a whitened change; None if a component would be no normal."""
    pairs = zip(mixture.coordinates, unwhitened(mixture, vector), strict=True)
    log_weights, means, precisions = (c + d for c, d in pairs)
    new = log_weights.log_softmax(-1), means, precisions
    return Mixture(new, mixture.noise) if host.truth(FAMILY.in_domain(new)) else None


def _product(mixture: Mixture, log_joint: ValueAndGradient, vector: Tensor) -> Tensor:
    """``A v`` by the difference of the steps on both sides."""
    half = HALF * host.number((0.5 * mixture.log_weights.amin()).exp()) / host.number(vector.norm())
    steps = []
    for sign in (1.0, -1.0):
        beside = _moved(mixture, sign * half * vector)
        assert beside is not None
        gradient = Gradient.of(State.at(beside, log_joint))
        steps.append(whitened(mixture, gradient.direction(beside)))
    return (steps[1] - steps[0]) / (2 * half)
