# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How far the ELBO is from its local maximum: the Newton decrement, and a test for saddles.

The residual ``d'Fd/2``, d = natural - message, measures the step, not the distance: with two
strongly coupled blocks it can be 5e-3 nats with the ELBO 27 nats short, and at a symmetric saddle
it is 0. So the gap is taken from the Hessian H of -ELBO in natural parameters,

    gap = g' H^-1 g / 2,      g = F d,

by conjugate gradients on Hessian-vector products, preconditioned by the inverse Fisher matrix
(H = F where blocks are not coupled, so few iterations suffice). A direction of negative curvature,
also looked for from a random start, means a saddle: a small perturbation along it would not return.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..conjugate_gradients import Solution, dot, solve
from ..families import Natural
from ..lifting import host
from .cone import minus
from .objective import Block, Naturals, Objective

#: Conjugate-gradient iterations; a certificate that needs more is not given.
MAX_ITERATIONS = 200

#: The preconditioned residual's relative size at which the decrement is known to two digits.
RELATIVE = 1e-2

#: The size to which a Newton step is solved where it is far from the last one (Dembo, Eisenstat &
#: Steihaug 1982): the quadratic model there is no better.
LOOSE = 0.1

#: The same between two independent gradients, which differ by more.
NOISY = 0.03

#: Curvature below this share of the Fisher metric's is called negative; rounding is far smaller.
NEGATIVE = -1e-7

#: Iterations of the search for negative curvature from a random start: in the Fisher metric
#: conjugate gradients, which are Lanczos's iteration, meet an eigenvalue outside the cluster around
#: 1 within a few, and end where there is none. A point has no such metric, and there a flat
#: direction must be told from a curved one: :mod:`.lanczos` has eigenvalues.
PROBES = 12


@dataclass(frozen=True)
class Certificate:
    """The certificate at one point.

    :param gap: the Newton decrement in nats; infinite if it could not be found.
    :param direction: the Newton step by block, or a direction of negative curvature.
    :param saddle: whether negative curvature was found.
    :param descent: the Newton step as far as it was solved where negative curvature was found, or
        None.
    """

    gap: float
    direction: dict[Block, Natural]
    saddle: bool
    descent: dict[Block, Natural] | None = None


Vector = list[Tensor]


class Curvature:
    """Hessian-vector products of -ELBO, and the inverse Fisher matrix, at one point."""

    def __init__(self, objective: Objective, naturals: Naturals) -> None:
        self.objective = objective
        self.blocks = list(naturals)
        self.is_linear = all(objective.is_linear_in(b) for b in self.blocks)
        self.naturals = {b: tuple(t.detach() for t in n) for b, n in naturals.items()}
        leaves = {b: tuple(t.clone().requires_grad_() for t in n) for b, n in self.naturals.items()}
        self.leaves = [t for b in self.blocks for t in leaves[b]]
        loss = objective.negative_elbo(leaves)
        self._elbo = -loss.detach()
        self.graph = list(torch.autograd.grad(loss, self.leaves, create_graph=True))

    @cached_property
    def elbo(self) -> float:
        """The ELBO at the point."""
        return host.number(self._elbo)

    @cached_property
    def gradient(self) -> Vector:
        """The gradient of -ELBO."""
        return self.gradient_of(self.objective)

    def gradient_of(self, objective: Objective) -> Vector:
        """The gradient that steps follow: on draws F d, from mean gradients and mean Hessians.

        The derivative along draws, whose own derivative H is, has more noise.

        :param objective: the same, or one on other draws.
        """
        gradient = self.split([g.detach() for g in self.graph])
        if not objective.is_exact:
            for block, message in objective.messages(self.naturals).items():
                natural = self.naturals[block]
                gradient[block] = block.family.fisher(natural, minus(natural, message))
        return self.symmetric([t for b in self.blocks for t in gradient[b]])

    def times(self, vector: Vector) -> Vector:
        """H vector."""
        self.objective.count_gradients(2)
        product = torch.autograd.grad(
            self.graph, self.leaves, vector, retain_graph=True, allow_unused=True
        )
        return self.symmetric(
            [torch.zeros_like(v) if p is None else p for p, v in zip(product, vector, strict=True)]
        )

    def precondition(self, vector: Vector) -> Vector:
        """F^-1 vector, where F is above rounding."""
        by_block = self.split(vector)
        solved: list[Tensor] = []
        for block in self.blocks:
            family = block.family  # a chart's has one product alone
            product = getattr(family, "near_inverse_fisher", family.inverse_fisher)
            solved += product(self.naturals[block], by_block[block])
        return solved

    def split(self, vector: Vector) -> dict[Block, Natural]:
        """A flat list of tensors by block."""
        parts = iter(vector)
        return {b: tuple(next(parts) for _ in self.naturals[b]) for b in self.blocks}

    def symmetric(self, vector: Vector) -> Vector:
        """Only the symmetric part of a matrix parameter's derivative acts on symmetric steps."""
        by_block = self.split(vector)
        result: list[Tensor] = []
        for block in self.blocks:
            result += block.family.symmetrize(by_block[block])
        return result


def certify(
    curvature: Curvature,
    tol: float,
    generator: torch.Generator | None = None,
    relative: float = RELATIVE,
) -> Certificate:
    """The Newton decrement at a point, and whether it is a saddle.

    :param curvature: there.
    :param tol: the gap in nats up to which the random search for negative curvature is worth its
        cost.
    :param relative: the relative size of the residual at which conjugate gradients end.
    """
    found = _solve(curvature, curvature.gradient, relative)
    if negative := _negative(found):
        descent = curvature.split([-s for s in found.value])
        return Certificate(math.inf, curvature.split(negative), True, descent)
    gap = 0.5 * host.number(dot(curvature.gradient, found.value)) if found.is_solved else math.inf
    if gap <= tol and (negative := _search_negative_curvature(curvature, generator)):
        return Certificate(math.inf, curvature.split(negative), True)
    step = found.value if found.is_solved else curvature.precondition(curvature.gradient)
    return Certificate(max(gap, 0.0), curvature.split([-s for s in step]), False)


def independent_decrements(curvature: Curvature, gradients: Sequence[Vector]) -> list[float] | None:
    """``g' H^-1 h / 2`` for pairs of independent estimates g, h of the gradient, in nats.

    Their mean is the Newton decrement without the noise of the estimates. None where curvature is
    negative, or the solution is not found.

    :param gradients: at least three; H^-1 is applied to the first two.
    """
    products = []
    for i in range(2):
        found = _solve(curvature, gradients[i], NOISY)
        if not found.is_solved:
            return None
        products += [0.5 * host.number(dot(g, found.value)) for g in gradients[i + 1 :]]
    return products


def _search_negative_curvature(
    curvature: Curvature, generator: torch.Generator | None
) -> Vector | None:
    """A direction of negative curvature found from a random start (a saddle's gradient is 0)."""
    if len(curvature.blocks) == 1 and curvature.is_linear:
        return None  # L is linear in the mean parameters, so that H = F at the optimum
    noise = [
        torch.randn(g.shape, dtype=g.dtype, generator=generator, device="cpu").to(g.device)
        for g in curvature.gradient
    ]
    probe = _fisher_scaled(curvature, curvature.symmetric(noise))
    return _negative(_solve(curvature, probe, RELATIVE, PROBES))


def _fisher_scaled(curvature: Curvature, noise: Vector) -> Vector:
    """A random covector whose preconditioned size is of order one: F noise through the metric."""
    result: Vector = []
    by_block = curvature.split(noise)
    for block in curvature.blocks:
        result += block.family.fisher(curvature.naturals[block], by_block[block])
    return result


def _solve(
    curvature: Curvature, target: Vector, relative: float, most: int = MAX_ITERATIONS
) -> Solution:
    return solve(
        curvature.times,
        target,
        most=most,
        relative=relative,
        precondition=curvature.precondition,
    )


def _negative(found: Solution) -> Vector | None:
    """The direction of negative curvature that was met, if it is not rounding's."""
    return found.negative if found.curvature <= NEGATIVE else None
