# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Newton's step on a loss as a function of a few tensors: dense, or by conjugate gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..conjugate_gradients import dot, solve
from ..lifting import host
from .certificate import MAX_ITERATIONS, RELATIVE
from .hessian import dense_hessian, flat, gradient_graph, hessian_product, unflat
from .information import MAX_ELEMENTS
from .lanczos import least_curvature
from .spectrum import ROUNDED, Spectrum

#: Products in the search for negative curvature where the Hessian is not formed.
PROBES = 64

SINGULAR = "the Hessian is singular: along some direction the log joint is flat"
INDEFINITE = "the Hessian is not positive definite"
UNSOLVED = f"{MAX_ITERATIONS} conjugate gradients did not solve for Newton's step"
NOT_FINITE = "the Hessian is NaN or infinite"


@dataclass(frozen=True)
class NewtonStep:
    """A direction in which the loss falls.

    :param gap: the Newton decrement ``g' H^-1 g / 2`` in nats, or None where the Hessian is not
        positive definite or the system was not solved.
    :param negative: a direction of negative curvature, if there is one.
    :param reason: why there is no gap.
    :param hessian: where it was formed. # shape: (elements, elements)
    :param least: where none was formed, and curvature was looked for: the direction of the least.
    """

    direction: tuple[Tensor, ...]
    gap: float | None
    negative: tuple[Tensor, ...] | None = None
    reason: str = ""
    hessian: Tensor | None = None
    least: tuple[Tensor, ...] | None = None


def newton_step(
    loss: Tensor, leaves: Sequence[Tensor], tol: float = 1e-6, seed: int = 0
) -> NewtonStep:
    """``-H^-1 g`` of all leaves together.

    Up to 128 elements the Hessian is formed, and where it is not positive definite the step has the
    sizes of its eigenvalues. Else the system is solved by conjugate gradients on Hessian-vector
    products, which end at the first direction of negative curvature (Steihaug 1983): what was
    solved before it, or the steepest descent, is a direction in which the loss falls.

    :param loss: twice differentiable in the leaves, in nats.
    :param tol: the gap from which on negative curvature is looked for from a random start as well:
        at a saddle the gradient, and what is solved from it, may have no part along it.
    :param seed: of that start.
    """
    return newton_from(gradient_graph(loss, leaves), leaves, tol, seed)


def newton_from(
    graph: list[Tensor], leaves: Sequence[Tensor], tol: float, seed: int = 0
) -> NewtonStep:
    """:func:`newton_step` from the gradient's graph."""
    if sum(leaf.numel() for leaf in leaves) == 0:
        return NewtonStep(tuple(torch.zeros_like(leaf) for leaf in leaves), 0.0)
    if sum(leaf.numel() for leaf in leaves) > MAX_ELEMENTS:
        return _by_products(graph, list(leaves), tol, seed)
    return _dense(graph, list(leaves))


def _dense(graph: list[Tensor], leaves: list[Tensor]) -> NewtonStep:
    gradient = flat([g.detach() for g in graph])
    hessian = dense_hessian(graph, leaves)
    if not host.truth(torch.isfinite(hessian).all()):
        return NewtonStep(unflat(-gradient, leaves), None, None, NOT_FINITE)
    spectrum = Spectrum(hessian, max(torch.finfo(leaf.dtype).eps for leaf in leaves))
    step = spectrum.descent(gradient)
    direction, negative = unflat(step, leaves), spectrum.negative
    if negative is not None:
        return NewtonStep(direction, None, unflat(negative, leaves), INDEFINITE, hessian)
    if not spectrum.is_positive:
        return NewtonStep(direction, None, None, SINGULAR, hessian)
    return NewtonStep(direction, 0.5 * abs(host.number(gradient @ step)), None, "", hessian)


def _by_products(graph: list[Tensor], leaves: list[Tensor], tol: float, seed: int) -> NewtonStep:
    gradient = [g.detach() for g in graph]

    def times(vector: Sequence[Tensor]) -> list[Tensor]:
        return hessian_product(graph, leaves, vector)

    found = solve(times, gradient, most=MAX_ITERATIONS, relative=RELATIVE)
    # Negative curvature in the first direction leaves that direction, steepest descent.
    value = found.value if found.iterations or found.is_solved else gradient
    direction = tuple(-s for s in value)
    if found.negative is not None and found.curvature <= 0:  # not NaN
        return NewtonStep(direction, None, tuple(found.negative), INDEFINITE)
    if not found.is_solved:
        return NewtonStep(direction, None, None, UNSOLVED)
    gap = 0.5 * host.number(dot(gradient, value))
    if gap > tol:
        return NewtonStep(direction, gap)
    noise = torch.Generator().manual_seed(seed)
    size = sum(x.numel() for x in leaves)
    start = torch.randn(size, generator=noise, dtype=torch.float64, device=noise.device)
    least, most, vector = least_curvature(
        lambda v: flat(times(unflat(v, leaves))), start.to(leaves[0].device), PROBES
    )
    limit = ROUNDED * max(torch.finfo(x.dtype).eps for x in leaves) * len(start) * abs(most)
    if least < -limit:
        along = unflat(vector * (2 / -least) ** 0.5, leaves)
        return NewtonStep(direction, None, along, INDEFINITE)
    if least <= limit:
        return NewtonStep(direction, None, None, SINGULAR)
    return NewtonStep(direction, gap, least=unflat(vector, leaves))
