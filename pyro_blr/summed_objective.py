# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The ELBO of data in parts as the objective of a step: one sum, whoever holds the parts.

    ELBO = (factors that all parts share, once) + sum over parts (the part's own factors)

Values, messages, derivatives and products with the Hessian are all sums over parts. Each is taken
part by part, whether the parts are rows on this process, or chunks that are read one after the
other, and then over processes, by one exchange.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .chunks import in_part
from .derivatives import Pieces, applied, flattened, shapes_of
from .energy.draws import Draws
from .energy.non_finite import non_finite
from .energy.value import Value
from .families import Natural
from .kept_sums import KeptSum
from .lifting import host
from .lifting.blocks import Block
from .objective import EnergyObjective, Naturals
from .processes import Alone, Together, known_to_all
from .summed_loss import SummedLoss

Result = TypeVar("Result")


class Source(Protocol):
    """The parts of the data that this process holds, or reads."""

    #: Whether there is one part, which stays in memory: what was computed from it may be kept.
    is_resident: bool

    def kept(self, what: str, at: Sequence[Tensor]) -> KeptSum | None:
        """What is known of a sum from an interrupted call, where such are kept."""

    def each(
        self, draws: Draws | None, known: KeptSum | None = None
    ) -> Iterator[tuple[int, EnergyObjective]]:
        """The number and the objective of each part in turn, but for known ones, on some draws."""


@dataclass(frozen=True, eq=False)
class SummedValue(Value):
    """A value of the ELBO of all parts, with the messages there where they were asked for.

    :param at: where it was taken.
    :param messages: of every block that the terms touch.
    :param gradients: of the expected log joint in each ``pyro.param`` that any part uses, by name.
    """

    at: Naturals = field(default_factory=dict)
    messages: Mapping[Block, Natural] = field(default_factory=dict)
    gradients: Mapping[str, Tensor] = field(default_factory=dict)


class SummedObjective(EnergyObjective):
    """The ELBO of all parts.

    :param first: the objective of one part, which tells what all have in common: blocks, tiers, in
        what the ELBO is linear.
    :param parts: of this process.
    :param over: adds up over processes.
    """

    is_whole = False

    def __init__(self, first: EnergyObjective, parts: Source, over: Alone | Together) -> None:
        super().__init__(first.energy, first.draws, first.cache, first.call)
        self.first = first
        self.parts = parts
        self.over = over
        self.is_resident = parts.is_resident
        self._blocks = first.blocks
        self._given: Naturals | None = None

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The blocks that all parts share."""
        return self._blocks

    def is_linear_in(self, block: Block) -> bool:
        """Whether L is linear in a block, as it is in each part."""
        return self.first.is_linear_in(block)

    def with_draws(self, draws: Draws | None) -> "SummedObjective":
        other = SummedObjective(self.first, self.parts, self.over)
        other.draws = draws
        return other

    # The sum

    def _each(
        self, of_part: Callable[[EnergyObjective], Result], known: KeptSum | None = None
    ) -> Iterator[Result]:
        for number, part in self.parts.each(self.draws, known):
            given = nullcontext() if self._given is None else part.given_discrete(self._given)
            with nullcontext() if self.is_resident else in_part(number), given:
                found = of_part(part)
            yield found

    def _of_first(self, of_part: Callable[[EnergyObjective], Result]) -> Result:
        """What the first part has, which is in memory."""
        part = self.first
        part.draws = self.draws
        with nullcontext() if self._given is None else part.given_discrete(self._given):
            return of_part(part)

    @property
    def _drawn(self) -> str:
        """The draws, in words."""
        return "" if self.draws is None else f" on {self.draws.count} of seed {self.draws.seed}"

    def sum_over_parts(
        self,
        of_part: Callable[[EnergyObjective], Iterable[Tensor]],
        what: str,
        at: Iterable[Tensor],
    ) -> Tensor:
        """The numbers of each part, added up over parts and processes. # shape: (n,)

        :param what: in words, the same on every process.
        :param at: where they are taken.
        """

        def flat(part: EnergyObjective) -> Tensor:
            return torch.cat([t.detach().reshape(-1).double() for t in of_part(part)])

        with known_to_all(self.over):
            known = self.parts.kept(what + self._drawn, [*at, *_tensors(self._given or {})])
            total = None if known is None else known.total
            if known is not None and total is not None:
                known.check_first(self.call, self._of_first(flat))
            if known is None or not known.is_done:
                with nullcontext() if known is None else known.kept():
                    for own in self._each(flat, known):
                        total = own if total is None else total + own
                        if known is not None:
                            known.add(total)
            if known is not None:
                known.end()
        assert total is not None
        return self.over.total(total, what)

    # What a step asks for

    def value(self, naturals: Naturals, touching: Block | None = None) -> Value:
        def of_part(part: EnergyObjective) -> Iterable[Tensor]:
            return _numbers(part.value(naturals, touching))

        what = "value" + _of_terms(touching)
        total = self.sum_over_parts(of_part, what, _tensors(naturals))
        return _value(total, naturals, touching)

    def evaluate(self, naturals: Naturals, touching: Block | None = None) -> Value:
        """The ELBO, and the messages and the parameters' gradients there."""
        blocks = self.blocks if touching is None else (touching,)
        alike: dict[Block, Natural] = {}
        parameters = {n: p.leaf for n, p in self.energy.traced.parameters.items() if p.is_free}

        def of_part(part: EnergyObjective) -> Iterable[Tensor]:
            messages = part.coefficients(naturals, blocks)
            left = tuple(b for b in blocks if b not in messages)
            plain = not (left or parameters)
            value = (part.value if plain else part.evaluate)(naturals, touching)
            if left:
                messages |= part.messages_of(value, left)
            alike.update(messages)
            own = part.energy.traced.parameters
            leaves = [own[n].leaf for n in parameters]
            gradients = part.parameter_gradients(value, leaves)
            yield from (t for b in blocks for t in messages[b])
            for leaf, gradient in zip(leaves, gradients, strict=True):
                yield leaf.new_tensor([gradient is not None])
                yield torch.zeros_like(leaf) if gradient is None else gradient
            yield from _numbers(value)

        what = "value and messages" + _of_terms(touching)
        pieces = Pieces(self.sum_over_parts(of_part, what, _tensors(naturals)))
        messages = {b: tuple(pieces.take(t) for t in alike[b]) for b in blocks}
        gradients = {}
        for name, leaf in parameters.items():
            is_used, gradient = host.truth(pieces.take(leaf.new_zeros(1)) > 0), pieces.take(leaf)
            if is_used:
                gradients[name] = gradient
        return _value(pieces.rest(), naturals, touching, messages, gradients)

    def messages(self, naturals: Naturals, only: Block | None = None) -> dict[Block, Natural]:
        blocks = self.blocks if only is None else (only,)

        alike: dict[Block, Natural] = {}

        def of_part(part: EnergyObjective) -> Iterable[Tensor]:
            own = part.messages(naturals, only)
            alike.update(own)
            return [t for b in blocks for t in own[b]]

        pieces = Pieces(
            self.sum_over_parts(of_part, "messages" + _of_terms(only), _tensors(naturals))
        )
        return {b: tuple(pieces.take(t) for t in alike[b]) for b in blocks}

    def natural_messages(self, naturals: Naturals) -> dict[Block, Natural]:
        """The messages to what all parts share, and those to this process's own latents."""
        return {**self.messages(naturals), **self.first.local_messages(naturals)}

    def local_naturals(self, naturals: Naturals) -> dict[Block, Natural]:
        return self.first.local_naturals(naturals)

    def messages_of(self, value: Value, blocks: tuple[Block, ...]) -> dict[Block, Natural]:
        """The messages that came with an evaluation."""
        assert isinstance(value, SummedValue)
        return {b: value.messages[b] for b in blocks}

    def parameter_gradients(
        self, value: Value, leaves: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        assert isinstance(value, SummedValue)
        names = {id(p.leaf): n for n, p in self.energy.traced.parameters.items()}
        return tuple(value.gradients.get(names[id(leaf)]) for leaf in leaves)

    def check_finite(self, value: Value) -> None:
        """Raise on every process if the ELBO is not finite, naming site and process."""
        if value.elbo - value.elbo == 0:
            return
        assert isinstance(value, SummedValue)
        with known_to_all(self.over):
            for _ in self._each(lambda part: part.check_finite(part.value(value.at))):
                pass
        self.over.agree("a look for what is not finite")
        raise non_finite(", ".join(b.name for b in self.blocks))

    @contextmanager
    def given_discrete(self, naturals: Naturals) -> Iterator[None]:
        if self.is_resident:
            ((_, part),) = self.parts.each(self.draws)
            with part.given_discrete(naturals):
                yield
            return
        self._given = naturals
        try:
            yield
        finally:
            self._given = None

    # Second derivatives

    def negative_elbo(self, naturals: Naturals) -> Tensor:
        self.count_gradients(1)
        given = {b: n for b, n in naturals.items() if b in self.blocks or b in self.points}
        return applied(SummedLoss(self, shapes_of(given)), flattened(given.values()))


def _of_terms(block: Block | None) -> str:
    """Of which terms a sum is, in words."""
    return "" if block is None else f" of the terms of {block.name}"


def _tensors(naturals: Naturals) -> list[Tensor]:
    return [t for natural in naturals.values() for t in natural]


def _numbers(value: Value) -> list[Tensor]:
    """A value as numbers that add up over parts."""
    joint, entropy = value.expected_log_joint.detach(), value.entropy.detach()
    sizes = joint.new_tensor(value.magnitude) - entropy.abs()
    return [joint, entropy, sizes, *(() if value.each is None else (value.each,))]


def _value(
    numbers: Tensor,
    at: Naturals,
    touching: Block | None,
    messages: Mapping[Block, Natural] | None = None,
    gradients: Mapping[str, Tensor] | None = None,
) -> SummedValue:
    joint, entropy, sizes, each = numbers[0], numbers[1], numbers[2], numbers[3:]
    drawn = each if len(each) else None
    about = (at, messages or {}, gradients or {})
    return SummedValue(joint, [sizes], {}, lambda: entropy, drawn, touching, *about)
