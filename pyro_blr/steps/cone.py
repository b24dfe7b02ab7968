# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Steps that stay inside the cone of natural parameters; departures from the plain one count."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..families import ExponentialFamily, MultivariateNormal, Natural, Normal
from ..lifting import host

#: Halvings of a step before it is given up: 2 ** -40 of a step moves nothing in float64.
MAX_HALVINGS = 40


@dataclass
class Safety:
    """What was done to stay inside the cone and to keep the ELBO from falling."""

    retractions: int = 0
    halvings: int = 0
    refused: int = 0


def plain(natural: Natural, message: Natural, rho: float) -> Natural:
    """``(1 - rho) natural + rho message``; at rho = 1 the message itself, to the last bit."""
    if rho == 1.0:
        return message
    return tuple((1 - rho) * n + rho * m for n, m in zip(natural, message, strict=True))


def inside(family: ExponentialFamily, natural: Natural) -> bool:
    """Whether every batch element is a proper distribution (this waits for the device)."""
    return host.truth(family.in_domain(natural).all())


def retract(family: ExponentialFamily, natural: Natural, message: Natural, rho: float) -> Natural:
    """The improved-BLR step of a Gaussian: inside the cone for every rho (arXiv 2002.10060).

    With S the precision, G = S - E[hess l] and the natural gradient of the mean taken in the new S:

        S <- ( S + (S - rho G) S^-1 (S - rho G) ) / 2,       m <- m + rho S_new^-1 E[grad log p].

    Not for an arrow-head precision, whose zeros ``G S^-1 G`` has not: that one halves its steps.
    A message is ``(E[grad log p] + E[hess l] m, -E[hess l] / 2)``, E[hess l] being symmetric.
    """
    matrix = isinstance(family, MultivariateNormal)
    precision, hessian = -2 * natural[1], -2 * message[1]
    direction = precision - rho * (precision - hessian)
    if not matrix:
        mean = natural[0] / precision
        new = 0.5 * (precision + direction.square() / precision)
        gradient = message[0] - hessian * mean
        return new * mean + rho * gradient, -0.5 * new
    factor = torch.linalg.cholesky(precision)
    half = torch.linalg.solve_triangular(factor, direction, upper=False)
    new = 0.5 * (precision + half.mT @ half)
    mean = torch.cholesky_solve(natural[0].unsqueeze(-1), factor)
    gradient = message[0].unsqueeze(-1) - hessian @ mean
    return (new @ mean + rho * gradient).squeeze(-1), -0.5 * new


def has_retraction(family: ExponentialFamily) -> bool:
    """Whether :func:`retract` knows the family."""
    return isinstance(family, Normal | MultivariateNormal)


def safe_step(
    family: ExponentialFamily, natural: Natural, message: Natural, rho: float, safety: Safety
) -> Natural | None:
    """The plain step if it is inside the cone, else the retraction, else halved steps.

    :returns: None if no step is inside (a message that is not finite).
    """
    proposal = plain(natural, message, rho)
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
        proposal = plain(natural, message, rho)
        if inside(family, proposal):
            return proposal
    safety.refused += 1
    return None


def fisher_product(family: ExponentialFamily, natural: Natural, direction: Natural) -> Natural:
    """``F d``, F the Fisher matrix at ``natural``."""
    with torch.enable_grad():
        leaf = tuple(n.detach().requires_grad_() for n in natural)
        mean_params = family.mean_params(leaf)
    return torch.autograd.grad(mean_params, leaf, tuple(d.detach() for d in direction))


def squared_norm(family: ExponentialFamily, natural: Natural, direction: Natural) -> Tensor:
    """``d' F d`` in nats, F the Fisher matrix at ``natural``; summed over the batch."""
    return inner(fisher_product(family, natural, direction), direction)


def metric_products(
    family: ExponentialFamily, natural: Natural, first: Natural, second: Natural
) -> tuple[float, float]:
    """``d1' F d1`` and ``d1' F d2`` in nats, summed over the batch."""
    product = fisher_product(family, natural, first)
    return host.number(inner(product, first)), host.number(inner(product, second))


def inner(left: Natural, right: Natural) -> Tensor:
    """The sum of the products of all entries."""
    first, *rest = ((a * b).sum() for a, b in zip(left, right, strict=True))
    return sum(rest, start=first)


def residual(naturals: Mapping[Any, Natural], messages: Mapping[Any, Natural]) -> float:
    """``d'Fd/2`` in nats, d = natural - message, summed over blocks: the length of a full step."""
    total = 0.0
    for block, natural in naturals.items():
        step = tuple(n - m for n, m in zip(natural, messages[block], strict=True))
        total += 0.5 * host.number(squared_norm(block.family, natural, step))
    return total
