# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""One evaluation of a point mass's loss, and the same loss along a line."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor

from .. import errors
from ..random_state import same_random_state, set_random_state
from ..steps.hessian import flat, gradient_graph

#: A loss that rises by so many times its rounding has not risen.
ROUNDING = 64.0

#: The share of its reach that is left to an element which comes to a bound: e^-4.5 of exp(u) at
#: which the density has a slope, e^-2.25 where it has none, and 1 without a bound.
SATURATED = 0.5

#: Random sums of the points by which the reach is measured.
PROBES = 8


@dataclass(frozen=True, eq=False)
class Call:
    """One evaluation of the loss.

    :param own: the leaves of the guide, which Newton's step moves, by name; ``others`` the model's.
    :param gradients: of all of them.
    :param is_repeatable: whether the loss is the same when it is evaluated again.
    :param random: the state of the random numbers before.
    :param evaluate: the loss anew; a ``NonFiniteError`` where it is NaN.
    :param points: the values of the guide's Deltas in whose coordinates the loss is a density.
    :param redundant: what is known of :meth:`logits`.
    """

    loss: float
    value: Tensor
    own: dict[str, Tensor]
    others: dict[str, Tensor]
    gradients: dict[str, Tensor]
    is_subsampled: bool
    is_repeatable: bool
    random: dict[str, Any]
    evaluate: Callable[[], Tensor]
    points: Callable[[], list[Tensor]]
    redundant: tuple[str, ...] = ()

    @property
    def is_noisy(self) -> bool:
        return self.is_subsampled or not self.is_repeatable

    @property
    def slack(self) -> float:
        return ROUNDING * torch.finfo(self.value.dtype).eps * abs(self.loss)

    def again(self) -> float:
        """The loss at the leaves as they are now, of the same random numbers; NaN if it fails."""
        with pyro.validation_enabled(False), same_random_state():
            if not self.is_repeatable:
                set_random_state(self.random)
            try:
                # With its graph: TraceEnum_ELBO has no loss without one.
                return float(self.evaluate().detach())
            except (ValueError, RuntimeError):  # a trial step may leave what can be factored
                return math.nan

    @contextmanager
    def further(self, shift: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        """The gradient's graph with the leaves moved by a shift, which are moved back at the end.

        Where the loss is NaN or infinite, so is the gradient.
        """
        line = Line(self, shift)
        line.move(1.0)
        try:
            yield self._graph(), line.leaves
        finally:
            line.move(0.0)

    def _graph(self) -> list[Tensor]:
        leaves = list(self.own.values())
        try:
            return gradient_graph(self.curved(self.evaluate()), leaves)
        except (errors.NonFiniteError, ValueError, RuntimeError):  # as in `again`
            return [torch.full_like(leaf, math.nan) for leaf in leaves]

    def curved(self, loss: Tensor) -> Tensor:
        """The loss with a curvature where leaves are redundant: value and slope stay."""
        for name in self.redundant:
            total = self.own[name].sum(-1)
            loss = loss + 0.5 * (total - total.detach()).square().sum()
        return loss

    def logits(self) -> tuple[str, ...]:
        """The names of the leaves of which a constant along the last dim moves no point.

        Such are the K coordinates that Pyro gives K proportions.
        """
        names = [name for name, leaf in self.own.items() if leaf.dim()]
        leaves = [self.own[name] for name in names]
        (moved,) = self._moved(leaves, 1)
        found = []
        for name, m in zip(names, moved, strict=True):
            limit = ROUNDING * torch.finfo(m.dtype).eps * m.abs().sum(-1)
            if bool((m.sum(-1).abs() <= limit).all() & (m != 0).all()):
                found.append(name)
        return tuple(found)

    def at_bound(self, shift: Sequence[Tensor]) -> Tensor:
        """The elements of the leaves that move the points by ever less along a shift.

        :returns: of all leaves in one vector. # shape: (elements,)
        """
        line = Line(self, shift)
        before = self._reach(line.leaves)
        line.move(1.0)
        try:
            return self._reach(line.leaves) < SATURATED * before
        finally:
            line.move(0.0)

    def _reach(self, leaves: list[Tensor]) -> Tensor:
        """How far the points move with each element: the norms of the Jacobian's columns, nearly.

        # shape: (elements,)
        """
        squares = [flat(moved).square() for moved in self._moved(leaves, PROBES)]
        return torch.stack(squares).sum(0).sqrt()

    def _moved(self, leaves: list[Tensor], count: int) -> list[list[Tensor]]:
        """How far random sums of the points move with each element of the leaves."""
        points = [p for p in self.points() if p.requires_grad]
        if not (points and leaves):
            return [[torch.zeros_like(leaf) for leaf in leaves]] * count
        noise = torch.Generator().manual_seed(0)
        found = []
        for _ in range(count):
            weights = [torch.randn(p.shape, generator=noise, device="cpu").to(p) for p in points]
            moved = torch.autograd.grad(
                points, leaves, weights, retain_graph=True, materialize_grads=True
            )
            found.append(list(moved))
        return found


class Line:
    """The guide's leaves along a direction from where they are.

    :param call: whose loss is asked for.
    """

    def __init__(self, call: Call, direction: Sequence[Tensor]) -> None:
        self.call = call
        self.leaves = list(call.own.values())
        self.start = [leaf.detach().clone() for leaf in self.leaves]
        self.direction = direction

    def move(self, size: float) -> None:
        """Write start + size * direction."""
        with torch.no_grad():
            for leaf, s, d in zip(self.leaves, self.start, self.direction, strict=True):
                leaf.copy_(s + size * d)

    def loss(self, size: float) -> float:
        """The loss there."""
        self.move(size)
        return self.call.again()
