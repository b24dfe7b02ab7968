# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The ELBO of one part of the data with its local latents at their optimum given all others.

    L*(shared) = max over q(local) of L(shared, local)

Local latents (the factor scores of the part's own rows) are seen by no other part, so that each
part brings its own to their optimum, and steps move what all parts share. At the optimum the
gradient of L* is that of L with the local latents held; its Hessian is the Schur complement

    H* = H_gg - H_gl H_ll^-1 H_lg,        g: shared, l: local.

Where L is linear in the mean parameters of a shared block, L* is convex in them and has the linear
L at the present local latents as a bound from below: the step to the message never lowers it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from .conjugate_gradients import solve
from .derivatives import Shapes, applied, cut, flattened, shapes_of
from .energy.value import Value
from .families import Natural
from .lifting.blocks import Block
from .objective import EnergyObjective, Naturals
from .steps.cone import Safety
from .steps.local import FULLY, settle
from .steps.sweep import SweepMemory

#: Iterations of the solution in the local Hessian, which is the Fisher matrix, or near it.
MOST = 50

#: The accuracy of that solution, far below what a Newton decrement is asked for.
RELATIVE = 1e-7


class ProfileObjective(EnergyObjective):
    """The ELBO of a part as a function of what all parts share.

    :param part: as a function of all latents.
    :param local: the blocks that are the part's own.
    :param start: where q of these stands.
    """

    def __init__(self, part: EnergyObjective, local: Sequence[Block], start: Naturals) -> None:
        super().__init__(part.energy, part.draws, part.cache, part.call)
        self.part = part
        self.local = tuple(local)
        self.current: dict[Block, Natural] = {b: start[b] for b in self.local}
        self._memory = SweepMemory()
        self._is_held = False

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that all parts share."""
        return tuple(b for b in self.energy.blocks if b not in self.local)

    def full(self, naturals: Naturals) -> dict[Block, Natural]:
        """Natural parameters of all blocks: local ones at their optimum, or as they are held."""
        given = {b: n for b, n in naturals.items() if b not in self.local}
        if self._is_held:
            return {**given, **self.current}
        start = {**{b: tuple(t.detach() for t in n) for b, n in given.items()}, **self.current}
        with torch.enable_grad():  # messages are gradients, whoever asks
            # Fully, since steps and the certificate compare values there.
            settled = settle(self.part, start, self.local, Safety(), self._memory, FULLY)
        self.current = {b: settled[b] for b in self.local}
        return {**given, **self.current}

    def evaluate(self, naturals: Naturals, touching: Block | None = None) -> Value:
        return self.part.evaluate(self.full(naturals), touching)

    def value(self, naturals: Naturals, touching: Block | None = None) -> Value:
        return self.part.value(self.full(naturals), touching)

    def coefficients(self, naturals: Naturals, blocks: Sequence[Block]) -> dict[Block, Natural]:
        return self.part.coefficients(self.full(naturals), blocks)

    def messages(self, naturals: Naturals, only: Block | None = None) -> dict[Block, Natural]:
        full = self.full(naturals)
        blocks = self.blocks if only is None else (only,)
        return {b: self.part.messages(full, b)[b] for b in blocks}

    def of_all(self, naturals: Naturals) -> tuple[EnergyObjective, dict[Block, Natural]]:
        """The part, and its local latents at their optimum beside the others."""
        return self.part, self.full(naturals)

    def local_naturals(self, naturals: Naturals) -> dict[Block, Natural]:
        """The local latents at their optimum given the others."""
        full = self.full(naturals)
        return {b: full[b] for b in self.local}

    def local_messages(self, naturals: Naturals) -> dict[Block, Natural]:
        """The messages to the local blocks at their optimum."""
        full = self.full(naturals)
        return {b: self.part.messages(full, b)[b] for b in self.local}

    def is_linear_in(self, block: Block) -> bool:
        """Whether L* is linear: only where no local latent meets the block."""
        met = any(set(self.local) & f.blocks for f in self.energy.factors if block in f.blocks)
        return not met and super().is_linear_in(block)

    @contextmanager
    def given_discrete(self, naturals: Naturals) -> Iterator[None]:
        """Local latents, discrete ones as well, hold their optimum at these parameters."""
        full = self.full(naturals)
        self._is_held = True
        try:
            with self.part.given_discrete(full):
                yield
        finally:
            self._is_held = False

    def negative_elbo(self, naturals: Naturals) -> Tensor:
        given = {b: n for b, n in naturals.items() if b not in self.local}
        return applied(_Profile(self, shapes_of(given)), flattened(given.values()))


class _Profile:
    """-L* as a function of the shared natural parameters in one vector."""

    def __init__(self, objective: ProfileObjective, shapes: Shapes[Block]) -> None:
        self.objective = objective
        self.shapes = shapes
        self._graph: tuple[Tensor, Tensor, Tensor, Tensor] | None = None

    def value_and_gradient(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Both; the graph of the gradient in shared and local parameters is kept."""
        own = self.objective
        settled = own.full(cut(at.detach(), self.shapes))
        held = {b: settled[b] for b in own.local}
        with torch.enable_grad():
            shared = at.detach().clone().requires_grad_()
            local = flattened(held.values()).detach().clone().requires_grad_()
            both = {**cut(shared, self.shapes), **cut(local, shapes_of(held))}
            loss = own.part.negative_elbo(both)
            first, second = torch.autograd.grad(loss, (shared, local), create_graph=True)
        self._graph = shared, local, first, second
        return loss.detach(), first.detach()

    def times(self, at: Tensor, vector: Tensor) -> Tensor:
        """The Schur complement times a vector."""
        assert self._graph is not None
        shared, local, of_shared, of_local = self._graph
        own = self.objective
        shapes = shapes_of(own.current)
        naturals = cut(local.detach(), shapes)

        def products(gradient: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
            found = torch.autograd.grad(
                gradient, (shared, local), weights, retain_graph=True, allow_unused=True
            )
            pairs = zip(found, (shared, local), strict=True)
            first, second = (torch.zeros_like(p) if f is None else f for f, p in pairs)
            return first, second

        def symmetric(flat: Tensor) -> Tensor:
            """The part of a covector that acts on symmetric steps, of matrix parameters."""
            parts = cut(flat, shapes)
            return flattened(b.family.symmetrize(parts[b]) for b in own.local)

        def precondition(residual: list[Tensor]) -> list[Tensor]:
            parts = cut(residual[0], shapes)
            solved = (b.family.inverse_fisher(naturals[b], parts[b]) for b in own.local)
            return [flattened(solved)]

        direct, crossed = products(of_shared, vector)
        found = solve(
            lambda v: [symmetric(products(of_local, v[0])[1])],
            [symmetric(crossed)],
            most=MOST,
            relative=RELATIVE,
            precondition=precondition,
        )
        return direct - products(of_local, found.value[0])[0]
