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
from .derivatives import Pieces, applied
from .energy.draws import Draws
from .energy.energy import non_finite
from .energy.value import Value
from .families import Natural
from .lifting import host
from .lifting.blocks import Block
from .objective import EnergyObjective, Naturals
from .processes import Alone, Together

Result = TypeVar("Result")


class Source(Protocol):
    """The parts of the data that this process holds, or reads."""

    #: Whether there is one part, which stays in memory: what was computed from it may be kept.
    is_resident: bool

    def each(self, draws: Draws | None) -> Iterator[EnergyObjective]:
        """The objective of each part in turn, on some draws."""


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

    def _each(self, of_part: Callable[[EnergyObjective], Result]) -> Iterator[Result]:
        for number, part in enumerate(self.parts.each(self.draws)):
            given = nullcontext() if self._given is None else part.given_discrete(self._given)
            with nullcontext() if self.is_resident else in_part(number), given:
                found = of_part(part)
            yield found

    def _sum(self, of_part: Callable[[EnergyObjective], Iterable[Tensor]], what: str) -> Tensor:
        """The numbers of each part, added up over parts and processes. # shape: (n,)"""

        def flat(part: EnergyObjective) -> Tensor:
            return torch.cat([t.detach().reshape(-1).double() for t in of_part(part)])

        total: Tensor | None = None
        for own in self._each(flat):
            total = own if total is None else total + own
        assert total is not None
        return self.over.total(total, what)

    # What a step asks for

    def value(self, naturals: Naturals, touching: Block | None = None) -> Value:
        def of_part(part: EnergyObjective) -> Iterable[Tensor]:
            return _numbers(part.value(naturals, touching))

        return _value(self._sum(of_part, "value"), naturals)

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

        numbers = self._sum(of_part, "value and messages")
        pieces = Pieces(numbers)
        messages = {b: tuple(pieces.take(t) for t in alike[b]) for b in blocks}
        gradients = {}
        for name, leaf in parameters.items():
            is_used, gradient = host.truth(pieces.take(leaf.new_zeros(1)) > 0), pieces.take(leaf)
            if is_used:
                gradients[name] = gradient
        return _value(pieces.rest(), naturals, messages, gradients)

    def messages(self, naturals: Naturals, only: Block | None = None) -> dict[Block, Natural]:
        blocks = self.blocks if only is None else (only,)
        alike: dict[Block, Natural] = {}

        def of_part(part: EnergyObjective) -> Iterable[Tensor]:
            own = part.messages(naturals, only)
            alike.update(own)
            return [t for b in blocks for t in own[b]]

        pieces = Pieces(self._sum(of_part, "messages"))
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
        try:
            for _ in self._each(lambda part: part.check_finite(part.value(value.at))):
                pass
        except Exception as error:
            raise self.over.fail(error) from error
        self.over.agree("a look for what is not finite")
        raise non_finite(", ".join(b.name for b in self.blocks))

    @contextmanager
    def given_discrete(self, naturals: Naturals) -> Iterator[None]:
        if self.is_resident:
            (part,) = self.parts.each(self.draws)
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
        shapes = {b: tuple(t.shape for t in n) for b, n in given.items()}
        flat = torch.cat([t.reshape(-1) for n in given.values() for t in n])
        return applied(_Loss(self, shapes), flat)


class _Loss:
    """-ELBO of all parts as a function of one flat vector, with its first two derivatives."""

    def __init__(
        self, objective: SummedObjective, shapes: Mapping[Block, tuple[torch.Size, ...]]
    ) -> None:
        self.objective = objective
        self.shapes = shapes
        #: Of a part that stays in memory: where its gradient was taken, and the gradient's graph.
        self._kept: tuple[Tensor, Tensor] | None = None

    def _gradient_of(self, part: EnergyObjective, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The value, the point as a leaf, and the gradient there with its graph."""
        with torch.enable_grad():
            leaf = at.detach().clone().requires_grad_()
            pieces = Pieces(leaf)
            naturals = {b: tuple(pieces.of(s) for s in n) for b, n in self.shapes.items()}
            loss = part.negative_elbo(naturals)
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

        numbers = self.objective._sum(of_part, "gradient")
        return numbers[0], numbers[1:]

    def times(self, at: Tensor, vector: Tensor) -> Tensor:
        """The Hessian of all parts times a vector, by one sum."""

        def of_part(part: EnergyObjective) -> Iterable[Tensor]:
            if self._kept is None:
                _, leaf, gradient = self._gradient_of(part, at)
            else:
                leaf, gradient = self._kept
            return [_product(gradient, leaf, vector)]

        return self.objective._sum(of_part, "product with the Hessian")


def _product(gradient: Tensor, leaf: Tensor, vector: Tensor) -> Tensor:
    if not gradient.requires_grad:
        return torch.zeros_like(vector)
    with torch.enable_grad():
        (product,) = torch.autograd.grad(
            gradient, leaf, vector, retain_graph=True, allow_unused=True
        )
    return torch.zeros_like(vector) if product is None else product


def _numbers(value: Value) -> list[Tensor]:
    """A value as numbers that add up over parts."""
    joint, entropy = value.expected_log_joint.detach(), value.entropy.detach()
    sizes = joint.new_tensor(value.magnitude) - entropy.abs()
    return [joint, entropy, sizes, *(() if value.each is None else (value.each,))]


def _value(
    numbers: Tensor,
    at: Naturals,
    messages: Mapping[Block, Natural] | None = None,
    gradients: Mapping[str, Tensor] | None = None,
) -> SummedValue:
    joint, entropy, sizes, each = numbers[0], numbers[1], numbers[2], numbers[3:]
    drawn = each if len(each) else None
    about = (at, messages or {}, gradients or {})
    return SummedValue(joint, [sizes], {}, lambda: entropy, drawn, *about)
