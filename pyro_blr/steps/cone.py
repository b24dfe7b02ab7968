# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Steps that stay inside the cone of natural parameters; departures from the plain one count."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..families import DiagonalNormal, ExponentialFamily, MultivariateNormal, Natural, Normal
from ..lifting import host
from .curved import CurvedStep
from .diagonal import newton_directions, relative_changes, retraction
from .objective import Geometry

#: Halvings of a step before it is given up: 2 ** -40 of a step moves nothing in float64.
MAX_HALVINGS = 40


@dataclass
class Safety:
    """What was done to stay inside the cone and to keep the ELBO from falling."""

    retractions: int = 0
    halvings: int = 0
    refused: int = 0
    #: Steps of blocks with noisy messages that were shortened to the trust region.
    shortened: int = 0


def plain(natural: Natural, message: Natural, rho: float) -> Natural:
    """``(1 - rho) natural + rho message``; at rho = 1 the message itself, to the last bit."""
    if rho == 1.0:
        return message
    return tuple((1 - rho) * n + rho * m for n, m in zip(natural, message, strict=True))


Steps = Callable[[float], Natural]


def steps_towards(family: ExponentialFamily, natural: Natural, message: Natural) -> Steps:
    """The step of each size rho: the plain one, or that of a curved family."""
    if family.is_curved:
        return CurvedStep(family, natural, message).at
    return lambda rho: plain(natural, message, rho)


def inside(family: Geometry, natural: Natural) -> bool:
    """Whether every batch element is a proper distribution (this waits for the device)."""
    return host.truth(family.in_domain(natural).all())


#: Beyond so many times the precision, in either direction, a retraction is linear.
LINEAR = 2.0


def retract(family: ExponentialFamily, natural: Natural, message: Natural, rho: float) -> Natural:
    """The improved-BLR step of a Gaussian: inside the cone for every rho (arXiv 2002.10060).

    With S the precision, G = S - E[hess l] and the natural gradient of the mean taken in the new S:

        S <- ( S + (S - rho G) S^-1 (S - rho G) ) / 2,       m <- m + rho S_new^-1 E[grad log p].

    With ``S = L L'`` that is ``L f(X) L'`` of ``X = L^-1 (S - rho G) L'^-1``, with the function
    ``f(x) = (1 + x^2) / 2`` of its eigenvalues. Where the Hessian is k times the precision that new
    precision is k / 2 times too large, and the mean does not move; so f goes on along its tangent
    beyond ``|x| = 2``, where it is at most twice what the plain step has.

    Not for an arrow-head precision, whose zeros ``G S^-1 G`` has not: that one halves its steps.
    A message is ``(E[grad log p] + E[hess l] m, -E[hess l] / 2)``, E[hess l] being symmetric.
    """
    if isinstance(family, MultivariateNormal):
        return retract_matrices(natural, message, rho)
    precision, hessian = -2 * natural[1], -2 * message[1]
    mean = natural[0] / precision
    gradient = message[0] - hessian * mean
    new = precision + retraction([precision - hessian], [precision], rho, LINEAR)[0]
    mean = mean + rho * newton_directions([gradient], [new])[0]
    return new * mean, -0.5 * new


def retract_matrices(natural: Natural, message: Natural, rho: float | Tensor) -> Natural:
    """The step of :func:`retract` of multivariate normals.

    :param rho: one size, or one of each. # shape: (*batch, 1, 1)
    """
    precision, hessian = -2 * natural[1], -2 * message[1]
    direction = precision - rho * (precision - hessian)
    factor = torch.linalg.cholesky(precision)
    half = torch.linalg.solve_triangular(factor, direction, upper=False)
    relative = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    # A message that is not finite has no eigenvalues: NaN is outside the cone, and no step.
    finite = torch.isfinite(relative).all()
    symmetric = torch.where(finite, 0.5 * (relative + relative.mT), 0.0)
    values, vectors = torch.linalg.eigh(symmetric)
    root = factor @ (vectors * _bent(values).sqrt().unsqueeze(-2))
    new = torch.where(finite, root @ root.mT, math.nan)
    mean = torch.cholesky_solve(natural[0].unsqueeze(-1), factor)
    gradient = message[0].unsqueeze(-1) - hessian @ mean
    return (new @ mean + rho * gradient).squeeze(-1), -0.5 * new


def _bent(x: Tensor) -> Tensor:
    """``(1 + x^2) / 2``, and its tangents beyond ``|x| = LINEAR``: positive everywhere."""
    return 1 + relative_changes([1 - x], LINEAR)[0]


def has_retraction(family: ExponentialFamily) -> bool:
    """Whether :func:`retract` knows the family."""
    return isinstance(family, Normal | DiagonalNormal | MultivariateNormal)


def safe_step(
    family: ExponentialFamily, natural: Natural, message: Natural, rho: float, safety: Safety
) -> Natural | None:
    """The plain step if it is inside the cone, else the retraction, else halved steps.

    :returns: None if no step is inside (a message that is not finite).
    """
    step = steps_towards(family, natural, message)
    proposal = step(rho)
    if inside(family, proposal):
        return proposal
    if has_retraction(family):
        proposal = retract(family, natural, message, rho)
        if inside(family, proposal):
            safety.retractions += 1
            return proposal
    for _ in range(MAX_HALVINGS):
        rho *= 0.5
        safety.halvings += 1
        proposal = step(rho)
        if inside(family, proposal):
            return proposal
    safety.refused += 1
    return None


#: The longest step of a noisy message in nats, ``rho^2 d'Fd / 2`` of each independent element. Of a
#: Gaussian with precision S that length is
#:
#:     tr((S^-1 dS)^2) / 4 + (move of the mean in standard deviations)^2 / 2,
#:
#: so within c nats no eigenvalue of ``S^-1 dS`` is larger than ``2 sqrt(c)``. At c = 1/4 that is
#: the edge of the cone (its Dikin ellipsoid); at 1/8 every direction keeps ``1 - 1/sqrt(2)`` of its
#: precision, whatever the noise, and a mean moves by half a standard deviation at most.
TRUST = 0.125


def trusted(
    family: ExponentialFamily,
    natural: Natural,
    message: Natural,
    rho: float,
    safety: Safety,
    trust: float = TRUST,
) -> Natural:
    """The message, drawn nearer where the step to it would be longer than the trust region.

    Each element of the batch is a distribution of its own, and is bounded for itself. A curved
    family bounds its steps itself.
    """
    if family.is_curved:
        return message
    direction = minus(message, natural)
    product = family.fisher(natural, direction)
    # Coordinates that are no natural parameters (a chart's) are moved all together.
    is_split = isinstance(family, ExponentialFamily)
    squared = family.inner(product, direction) if is_split else inner(product, direction)
    length = 0.5 * rho**2 * squared
    is_long = length > trust
    if not host.truth(is_long.any()):
        return message
    safety.shortened += 1
    share = (trust / length).sqrt()
    nearer = []
    dims_of = family.natural_event_dims if is_split else (0,) * len(natural)
    for m, n, d, dims in zip(message, natural, direction, dims_of, strict=True):
        event = (..., *(None,) * dims)
        nearer.append(torch.where(is_long[event], n + share[event] * d, m))
    return tuple(nearer)


def noisy_step(
    family: ExponentialFamily,
    natural: Natural,
    message: Natural,
    rho: float,
    safety: Safety,
    trust: float = TRUST,
) -> Natural | None:
    """A step on a noisy message that stays in the cone, however indefinite its Hessian.

    A step that the trust region shortens is the retraction, ``S - rho G + rho^2 G S^-1 G / 2``. The
    plain one lowers ``log S`` by half its squared length at each step, as ``log(1 + x) < x``: noise
    alone would take S to 0 in a few hundred steps. Short steps are plain: their mean has no bias.

    :param message: of matrices that are not symmetric the symmetric part counts.
    :param trust: the longest step, in nats.
    :returns: None if no step is inside (a message that is not finite).
    """
    message = family.symmetrize(message)
    nearer = trusted(family, natural, message, rho, safety, trust)
    if nearer is not message and has_retraction(family):
        proposal = retract(family, natural, nearer, rho)
        if inside(family, proposal):
            return proposal
    return safe_step(family, natural, nearer, rho, safety)


def squared_norm(family: Geometry, natural: Natural, direction: Natural) -> Tensor:
    """``d' F d`` in nats, F the Fisher matrix at ``natural``; summed over the batch."""
    return inner(family.fisher(natural, direction), direction)


def metric_products(
    family: Geometry, natural: Natural, first: Natural, second: Natural
) -> tuple[float, float]:
    """``d1' F d1`` and ``d1' F d2`` in nats, summed over the batch."""
    product = family.fisher(natural, first)
    return host.number(inner(product, first)), host.number(inner(product, second))


def minus(left: Natural, right: Natural) -> Natural:
    """The difference of two sets of parameters."""
    return tuple(a - b for a, b in zip(left, right, strict=True))


def inner(left: Natural, right: Natural) -> Tensor:
    """The sum of the products of all entries."""
    first, *rest = ((a * b).sum() for a, b in zip(left, right, strict=True))
    return sum(rest, start=first)
