# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""-ELBO of data in parts as a function of one flat vector, with its first two derivatives."""

from collections.abc import Callable, Iterable
from typing import Protocol

import torch
from torch import Tensor

from .derivatives import Shapes, cut
from .lifting.blocks import Block
from .objective import EnergyObjective


class Summed(Protocol):
    """What adds up numbers of all parts."""

    #: Whether there is one part, which stays in memory: what was computed from it may be kept.
    is_resident: bool

    def sum_over_parts(
        self,
        of_part: Callable[[EnergyObjective], Iterable[Tensor]],
        what: str,
        at: Iterable[Tensor],
    ) -> Tensor:
        """The numbers of each part, added up. # shape: (n,)"""


class SummedLoss:
    """-ELBO of all parts as a function of one flat vector, with its first two derivatives."""

    def __init__(self, objective: Summed, shapes: Shapes[Block]) -> None:
        self.objective = objective
        self.shapes = shapes
        #: Of a part that stays in memory: where its gradient was taken, and the gradient's graph.
        self._kept: tuple[Tensor, Tensor] | None = None

    def _gradient_of(self, part: EnergyObjective, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The value, the point as a leaf, and the gradient there with its graph."""
        with torch.enable_grad():
            leaf = at.detach().clone().requires_grad_()
            loss = part.negative_elbo(cut(leaf, self.shapes))
            if not loss.requires_grad:  # a part that says nothing of q
                return loss, leaf, 0.0 * leaf
            (gradient,) = torch.autograd.grad(loss, leaf, create_graph=True)
        return loss, leaf, gradient

    def value_and_gradient(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Both, of all parts, by one sum."""

        def of_part(part: EnergyObjective) -> Iterable[Tensor]:
            loss, leaf, gradient = self._gradient_of(part, at)
            if self.objective.is_resident:
                self._kept = leaf, gradient
            return loss, gradient

        numbers = self.objective.sum_over_parts(of_part, "gradient", [at])
        return numbers[0], numbers[1:]

    def times(self, at: Tensor, vector: Tensor) -> Tensor:
        """The Hessian of all parts times a vector, by one sum."""

        def of_part(part: EnergyObjective) -> Iterable[Tensor]:
            if self._kept is None:
                _, leaf, gradient = self._gradient_of(part, at)
            else:
                leaf, gradient = self._kept
            return [_product(gradient, leaf, vector)]

        return self.objective.sum_over_parts(of_part, "product with the Hessian", [at, vector])


def _product(gradient: Tensor, leaf: Tensor, vector: Tensor) -> Tensor:
    if not gradient.requires_grad:
        return torch.zeros_like(vector)
    with torch.enable_grad():
        (product,) = torch.autograd.grad(
            gradient, leaf, vector, retain_graph=True, allow_unused=True
        )
    return torch.zeros_like(vector) if product is None else product
