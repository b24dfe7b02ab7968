# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The energy of one traced call as the objective of a step."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .energy.draws import Draws
from .energy.eliminated import EliminatedFactor
from .energy.energy import Energy
from .energy.value import Value
from .families import Natural
from .lifting import constants
from .lifting.blocks import Block, has_fixed_scale
from .lifting.moments import Moments, differentiated
from .lifting.points import statistics_of
from .lifting.statistics import sufficient_statistics, sum_of_coefficients

Naturals = Mapping[Block, Natural]
Call = tuple[tuple[Any, ...], Mapping[str, Any]]


class EnergyObjective:
    """The ELBO of a traced call, its messages, and its second derivatives.

    :param draws: the draws of sampled factors; the same at every evaluation.
    :param cache: the cache of constants that evaluations may use.
    :param call: the arguments and keywords that the model was called with.
    """

    #: Whether its evaluations have a graph in all that they depend on, and not messages alone.
    is_whole = True
    #: Whether all data stay in memory, and an evaluation does not read them anew.
    is_resident = True

    def __init__(
        self, energy: Energy, draws: Draws | None, cache: constants.ConstantCache, call: Call
    ) -> None:
        self.call = call
        self.energy = energy
        self.draws = draws
        self.cache = cache
        self._conjugate: dict[Block, bool] = {}
        self._known: dict[Block, tuple[Natural, Moments]] = {}

    @property
    def is_at_mean(self) -> bool:
        """Whether all factors are at the mean of q."""
        return self.energy.is_at_mean

    @property
    def is_exact(self) -> bool:
        """Whether the ELBO is itself, and no estimate on draws."""
        return self.draws is None

    def with_draws(self, draws: Draws | None) -> "EnergyObjective":
        """The objective of the same call on other draws."""
        return EnergyObjective(self.energy, draws, self.cache, self.call)

    def count_gradients(self, times: int) -> None:
        """Count so many gradients of the ELBO, at every draw."""
        self.energy.work.gradients += times * (1 if self.draws is None else self.draws.count)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks of q, in the order of a sweep."""
        return self.energy.blocks

    @property
    def points(self) -> tuple[Block, ...]:
        """The points of the parameters, in the order of an M-step."""
        return tuple(self.energy.points)

    def by_block(self, naturals: Naturals) -> dict[Block, Natural]:
        """Natural parameters by the blocks of the energy, without their graph."""
        return {block: _detached(natural) for block, natural in naturals.items()}

    def evaluate(self, naturals: Naturals, touching: Block | None = None) -> Value:
        """The ELBO with the graph that messages need."""
        with constants.using(self.cache):
            return self.energy.evaluate(self._moments(naturals), self.draws, touching)

    def value(self, naturals: Naturals, touching: Block | None = None) -> Value:
        """The ELBO without gradients."""
        with torch.no_grad(), constants.using(self.cache):
            return self.energy.evaluate(self._moments(naturals), self.draws, touching)

    def check_finite(self, value: Value) -> None:
        """Raise if the ELBO is not finite, naming the factor that made it so."""
        self.energy.check_finite(value, self.draws)

    def parameter_gradients(
        self, value: Value, leaves: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        """The gradient of an evaluation in leaves of ``pyro.param``; None where it has none."""
        total = value.expected_log_joint
        if not leaves or not total.requires_grad:
            return (None,) * len(leaves)
        return torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True)

    def _moments(self, naturals: Naturals) -> dict[Block, Moments]:
        """The moments of every block; those of a block that has not moved are taken again."""
        known = self._known
        fixed = {**self.energy.points, **self.energy.noise}
        blocks = (*self.energy.blocks, *fixed)
        for block in blocks:
            natural = naturals.get(block, fixed.get(block, ()))
            if block not in known or known[block][0] is not natural:
                known[block] = (natural, statistics_of(block, _detached(natural)))
        return {block: known[block][1] for block in blocks}

    @contextmanager
    def given_discrete(self, naturals: Naturals) -> Iterator[None]:
        """Discrete latents hold their posterior at these natural parameters: one E-step."""
        free = [f for f in self.energy.factors if isinstance(f, EliminatedFactor) and not f.held]
        with torch.no_grad():
            moments = self._moments(naturals) if free else {}
        for factor in free:
            factor.hold(moments)
        try:
            yield
        finally:
            for factor in free:
                factor.held = None

    def moved(self, naturals: Naturals) -> dict[Block, Natural]:
        """The natural parameters of the blocks that steps move."""
        return {b: naturals[b] for b in self.blocks}

    def of_all(self, naturals: Naturals) -> tuple["EnergyObjective", dict[Block, Natural]]:
        """The objective as a function of every block, and the natural parameters of all."""
        return self, dict(naturals)

    def local_naturals(self, naturals: Naturals) -> dict[Block, Natural]:
        """Of blocks that no step moves, as they follow the others: those given the others."""
        return {}

    def local_messages(self, naturals: Naturals) -> dict[Block, Natural]:
        """The messages to blocks that no step moves."""
        return {}

    def natural_messages(self, naturals: Naturals) -> dict[Block, Natural]:
        """The messages of every block in natural coordinates, whatever it moves in."""
        return self.messages(naturals)

    def messages(self, naturals: Naturals, only: Block | None = None) -> dict[Block, Natural]:
        """dL/dmean_params of every block, or of one.

        Where every factor is a polynomial linear in a block, its message is the polynomial's own
        coefficients; the others' are differentiated.
        """
        blocks = self.blocks if only is None else (only,)
        found = self.coefficients(naturals, blocks)
        left = tuple(b for b in blocks if b not in found)
        if left:
            found |= self.messages_of(self.evaluate(naturals, only), left)
        return {b: found[b] for b in blocks}

    def message_and_value(self, naturals: Naturals, block: Block) -> tuple[Natural, Value]:
        """The message to a block, differentiated, and the terms of the ELBO that touch it."""
        value = self.evaluate(naturals, block)
        return self.messages_of(value, (block,))[block], value.without_graph()

    def coefficients(self, naturals: Naturals, blocks: Sequence[Block]) -> dict[Block, Natural]:
        """The messages to those blocks for which they are coefficients of a polynomial."""
        with torch.no_grad(), constants.using(self.cache):
            moments = self._moments(naturals)
            found = {b: m for b in blocks if (m := self._coefficients(b, moments)) is not None}
        if found:
            self.count_gradients(1)
        return found

    def _coefficients(self, block: Block, moments: Mapping[Block, Moments]) -> Natural | None:
        """The sum of the factors' coefficients in a block's mean parameters, or None."""
        if block in self.energy.points or not self.is_conjugate_in(block):
            return None
        own = (f.coefficients(moments, block) for f in self.energy.counted if block in f.blocks)
        total = sum_of_coefficients(own)
        if total is None:
            return None
        statistics = sufficient_statistics(block)
        message = moments[block].of_coefficients([total.get(s) for s in statistics])
        return self._local(block, moments[block], message)

    def messages_of(self, value: Value, blocks: tuple[Block, ...]) -> dict[Block, Natural]:
        """The messages from an evaluation that still has its graph (it keeps it)."""
        self.energy.count(self.draws, blocks)
        moments = [value.moments[b] for b in blocks]
        messages = differentiated(value.expected_log_joint, moments)
        return {
            b: self._local(b, m, message)
            for b, m, message in zip(blocks, moments, messages, strict=True)
        }

    def _local(self, block: Block, moments: Moments, message: Natural) -> Natural:
        """A latent in a subsampled plate: its own scale taken out, other rows left as they are.

        A row that was drawn more than once has as many equal messages, of which it takes one.
        """
        rows = self.energy.rows(block)
        if rows is None:
            return message
        scale = self.energy.local_scale(block)
        result = []
        for new, old, dims in zip(
            message, moments.natural, block.family.natural_event_dims, strict=True
        ):
            count = rows.reshape(*rows.shape, *(1,) * dims)
            # Of a Gaussian of fixed scale the old ones are a part of the message, once.
            own = old.detach() if has_fixed_scale(block) else torch.zeros_like(new)
            one = own + (new - own) / (scale * count)
            result.append(torch.where(count > 0, one, old.detach()))
        return tuple(result)

    def is_conjugate_in(self, block: Block) -> bool:
        """Whether a message is the exact coordinate update of the block, given the others."""
        if block not in self._conjugate:
            self._conjugate[block] = self.energy.is_conjugate_in(block)
        return self._conjugate[block]

    def is_linear_in(self, block: Block) -> bool:
        """Whether L is linear in the block's mean parameters, given the others."""
        return self.energy.is_linear_in(block)

    def is_coupled_in(self, block: Block) -> bool:
        """Whether an exact factor has a product of two elements of one block."""
        return any(f.couples(block) for f in self.energy.factors if block in f.blocks)

    def negative_elbo(self, naturals: Naturals) -> Tensor:
        """-ELBO, twice differentiable in natural parameters that require a gradient."""
        self.count_gradients(1)
        with constants.using(self.cache):
            moments = self.energy.moments(naturals)
            value = self.energy.evaluate(moments, self.draws)
        return -(value.expected_log_joint + value.entropy)


def _detached(natural: Natural) -> Natural:
    return tuple(n.detach() for n in natural)
