# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Newton's step on a loss as a function of a few tensors: dense, or by conjugate gradients."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..conjugate_gradients import dot, solve
from ..lifting import host
from .certificate import MAX_ITERATIONS, NEGATIVE, RELATIVE
from .information import information_step


@dataclass(frozen=True)
class NewtonStep:
    """A direction in which the loss falls.

    :param gap: the Newton decrement ``g' H^-1 g / 2`` in nats, or None where the Hessian is not
        positive definite or the system was not solved.
    """

    direction: tuple[Tensor, ...]
    gap: float | None


def newton_step(loss: Tensor, leaves: Sequence[Tensor]) -> NewtonStep:
    """``-H^-1 g`` of all leaves together.

    Up to 128 elements the Hessian is formed and factored. Else, and where it is not positive
    definite, the system is solved by conjugate gradients on Hessian-vector products, which end at
    the first direction of negative curvature (Steihaug 1983): what was solved before it, or the
    steepest descent, is a direction in which the loss falls.

    :param loss: twice differentiable in the leaves, in nats.
    """
    dense = information_step(-loss, leaves)
    first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    graph = [torch.zeros_like(x) if g is None else g for g, x in zip(first, leaves, strict=True)]
    gradient = [g.detach() for g in graph]
    if dense is not None:
        return NewtonStep(dense, -0.5 * host.number(dot(gradient, dense)))

    def times(vector: Sequence[Tensor]) -> list[Tensor]:
        used = [(g, v) for g, v in zip(graph, vector, strict=True) if g.requires_grad]
        if not used:
            return [torch.zeros_like(v) for v in vector]
        product = torch.autograd.grad(
            [g for g, _ in used],
            list(leaves),
            [v for _, v in used],
            retain_graph=True,
            allow_unused=True,
        )
        return [
            torch.zeros_like(v) if p is None else p for p, v in zip(product, vector, strict=True)
        ]

    found = solve(times, gradient, most=MAX_ITERATIONS, relative=RELATIVE, least=-NEGATIVE)
    # Negative curvature in the first direction leaves that direction, steepest descent.
    value = found.value if found.iterations or found.is_solved else gradient
    gap = 0.5 * host.number(dot(gradient, value)) if found.is_solved else None
    return NewtonStep(tuple(-s for s in value), gap)
