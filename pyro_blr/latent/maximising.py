# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The M-step: Newton's method on the expected log joint as a function of the parameters."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from .. import errors
from ..conjugate_gradients import solve
from ..steps.cone import Safety
from ..steps.hessian import flat, gradient_graph, hessian_product
from ..steps.line_search import descend
from .preconditioner import Blocks

#: Steps in one maximisation, and the rise in units of rounding of the function that is none.
MAX_STEPS, ROUNDING = 200, 64

#: The gain at the end of one, as a share of that rise: it is known from the gradient.
END = 1e-6


#: The most products with the Hessian in a step, and the accuracy of a direction by them.
MAX_PRODUCTS, RELATIVE = 100, 0.01

#: More products than this in a step ask for new blocks.
FEW = 12


class Maximiser:
    """Minimises losses that are much alike, as those of the M-steps of one EM are.

    Newton's steps are solved for by conjugate gradients on products with the Hessian. The blocks on
    its diagonal that precondition them are those of an earlier loss as long as they serve.

    :param leaves: what the losses are functions of, in place.
    """

    def __init__(self, leaves: Sequence[Tensor]) -> None:
        self.leaves = list(leaves)
        self.blocks: Blocks | None = None
        self.is_stale = False
        self.eps = max(torch.finfo(leaf.dtype).eps for leaf in self.leaves)

    def minimise(self, loss_at: Callable[[], Tensor]) -> bool:
        """Go to a minimum; the loss never rises. False if there is none to be found.

        :param loss_at: the loss at the leaves as they are, twice differentiable in them.
        """
        last = torch.inf
        for _ in range(MAX_STEPS):
            before, gain = self.step(loss_at)
            if not gain < torch.inf:
                return False
            slack = self._slack(before)
            # The gradient has a rounding of its own: a gain of that size falls no more.
            if gain <= END * slack or last <= gain <= slack:
                return True
            last = gain
        return False

    def step(self, loss_at: Callable[[], Tensor]) -> tuple[float, float]:
        """One step, and the loss before it and what Newton's model says of the gain.

        The gain is 0 if the loss falls along no step, and infinite if it has no Hessian.
        """
        loss = loss_at()
        before = float(loss.detach())
        direction, gain = self._direction(loss)
        if not gain < torch.inf:
            return before, gain
        return before, gain if self.move(loss_at, direction, before) else 0.0

    def _slack(self, value: float) -> float:
        """The rise of a loss of this size that may be rounding."""
        return ROUNDING * self.eps * max(1.0, abs(value))

    def _direction(self, loss: Tensor) -> tuple[tuple[Tensor, ...], float]:
        """Newton's direction as far as it is needed, and half of its first-order gain."""
        graph = gradient_graph(loss, self.leaves)
        gradient = [g.detach() for g in graph]

        def times(vector: Sequence[Tensor]) -> list[Tensor]:
            return hessian_product(graph, self.leaves, vector)

        if self.blocks is None or self.is_stale:
            coupled = None if self.blocks is None else self.blocks.coupled
            self.blocks = Blocks(times, self.leaves, coupled)
        blocks = self.blocks
        target = blocks.inner(gradient)
        if not all(bool(torch.isfinite(t).all()) for t in target):
            return (), torch.inf

        def scaled(vector: Sequence[Tensor]) -> list[Tensor]:
            return blocks.inner(times(blocks.outer(vector)))

        found = solve(scaled, target, most=MAX_PRODUCTS, relative=RELATIVE)
        self.is_stale = not found.is_solved or found.iterations > FEW
        # Negative curvature in the first direction leaves the blocks' own step.
        value = found.value if found.iterations or found.is_solved else target
        step = tuple(-x for x in blocks.outer(value))
        return step, -0.5 * float(flat(gradient) @ flat(step))

    def move(
        self,
        loss_at: Callable[[], Tensor],
        direction: Sequence[Tensor],
        before: float,
    ) -> bool:
        """Go along a direction, less far where the loss would rise; False if it falls nowhere."""
        kept = [leaf.detach().clone() for leaf in self.leaves]

        def go(size: float) -> None:
            with torch.no_grad():
                for leaf, old, d in zip(self.leaves, kept, direction, strict=True):
                    leaf.copy_(old + size * d)

        def moved(size: float) -> float:
            go(size)
            with torch.no_grad():
                return value_of(loss_at)

        found = descend(moved, before, self._slack(before), Safety(), longer=False)
        go(0.0 if found is None else found[0])
        return found is not None


def value_of(loss_at: Callable[[], Tensor]) -> float:
    """The loss; NaN where the model refuses its parameters (a scale that has become 0)."""
    try:
        return float(loss_at().detach())
    except (errors.ParameterError, errors.NonFiniteError, LinAlgError):
        return float("nan")
