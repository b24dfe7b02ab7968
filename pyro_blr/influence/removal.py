# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""q without one datum, for every datum: the message taken out, and the others' answer to that.

The optimum without datum n solves ``natural' = M(natural') - m_n(natural')``. M is taken at first
order about the optimum with all data, m_n at natural' itself, since a datum that matters moves q by
much in the direction of its own message and by little in the others':

    natural' = natural - R m_n(natural'),

R the linear response (:mod:`.response`). The fixed point takes a few rounds, each one pass over all
data at once; where messages do not depend on q it is ``natural - m_n``, and exact.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import errors
from ..families import Natural
from ..lifting import host
from ..lifting.blocks import Block
from ..lifting.moments import Moments
from ..lifting.points import statistics_of
from ..lifting.statistics import Statistic, sufficient_statistics
from ..steps.cone import fisher_product
from .copies import Copies, positions
from .data import Data
from .response import Response
from .terms import CopiedTerm, Term

#: Numbers of natural parameters of all copies that are worked on at once: 64 MB.
PIECE = 2**23

#: Rounds of the fixed point, and the length in nats of a move that ends them.
ROUNDS, SETTLED = 30, 1e-10

#: Halvings of a move that would leave the cone.
HALVINGS = 30

Naturals = Mapping[Block, Natural]


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the data, with copies of q for each.

    :param copies: their copies of the latents.
    :param terms: their terms.
    :param expanded: the moments of every copy at the optimum with all data.
    """

    copies: Copies
    terms: Sequence[CopiedTerm]
    expanded: Mapping[Block, Moments]

    def messages(self, moments: Mapping[Block, Moments] | None = None) -> dict[Block, Natural]:
        """The message of each datum at its copy of q, scaled. # shape of each: (C, *natural)

        :param moments: of the copies; those at the optimum with all data if None.
        """
        moments = self.expanded if moments is None else moments
        return messages_of(self.terms, self.copies, moments, self.copies.blocks)

    def moments(self, naturals: Naturals) -> dict[Block, Moments]:
        """The moments of the copies at natural parameters of their own. # shape: (C, *natural)"""
        found = {}
        for block, copied in self.copies.blocks.items():
            natural = naturals[block]
            if self.copies.count == 1:  # whose axis has two elements
                natural = tuple(n.expand(2, *n.shape[1:]) for n in natural)
            found[copied] = statistics_of(copied, tuple(n.detach() for n in natural))
        held = {b: m for b, m in self.expanded.items() if b not in found}
        return {**held, **found}


def messages_of(
    terms: Sequence[CopiedTerm],
    copies: Copies,
    moments: Mapping[Block, Moments],
    blocks: Iterable[Block],
) -> dict[Block, Natural]:
    """The messages of data to blocks, each at its copy of q. # shape of each: (C, *natural)

    Where every term is linear in a block they are its coefficients; else they are differentiated.
    """
    blocks, count = tuple(blocks), copies.count
    found: dict[Block, Natural] = {}
    for block in blocks:
        own = _coefficients(terms, copies.blocks[block], moments)
        if own is not None:
            found[block] = own
    left = [b for b in blocks if b not in found]
    if left:
        found |= _differentiated(terms, copies, moments, left)
    return {b: tuple(t[:count].detach() for t in found[b]) for b in blocks}


def _coefficients(
    terms: Sequence[CopiedTerm], block: Block, moments: Mapping[Block, Moments]
) -> Natural | None:
    total: dict[Statistic, Tensor] = {}
    with torch.no_grad():
        for term in terms:
            own = term.coefficients(moments, block)
            if own is None:
                return None
            for which, value in own.items():
                total[which] = total[which] + value if which in total else value
        return moments[block].of_coefficients([total.get(s) for s in sufficient_statistics(block)])


def _differentiated(
    terms: Sequence[CopiedTerm],
    copies: Copies,
    moments: Mapping[Block, Moments],
    blocks: Sequence[Block],
) -> dict[Block, Natural]:
    with torch.enable_grad():
        total = torch.stack([t.values(moments)[: copies.count].sum() for t in terms]).sum()
    own = [moments[copies.blocks[b]] for b in blocks]
    leaves = [leaf for m in own for leaf in m.leaves]
    given: tuple[Tensor | None, ...] = (None,) * len(leaves)
    if total.requires_grad:
        given = torch.autograd.grad(total, leaves, allow_unused=True)
    filled = iter(
        torch.zeros_like(leaf) if g is None else g for g, leaf in zip(given, leaves, strict=True)
    )
    return {
        b: m.message(tuple(next(filled) for _ in m.leaves)) for b, m in zip(blocks, own, strict=True)
    }


@dataclass(frozen=True, eq=False)
class Leaving:
    """q without each of some data.

    :param naturals: natural parameters. # shape of each: (C, *natural)
    :param messages: what was taken out. # shape of each: (C, *natural)
    """

    naturals: dict[Block, Natural]
    messages: dict[Block, Natural]


class Removal:
    """What is needed to take single data out of a fit.

    :param data: what a datum is.
    :param terms: their terms.
    :param naturals: q at its optimum with all data.
    :param moments: its moments, and those of points.
    :param response: how q answers; None where the messages of all data do not depend on q, or the
        others' answer is left out.
    :param layout: the block of each site.
    """

    def __init__(
        self,
        data: Data,
        terms: Sequence[Term],
        naturals: Naturals,
        moments: Mapping[Block, Moments],
        response: Response | None,
        layout: Mapping[str, Block],
    ) -> None:
        self.data, self.terms = data, terms
        self.naturals, self.moments_of_all = naturals, moments
        self.response, self.layout = response, layout

    def part(self, rows: Tensor) -> Part:
        """Some of the data."""
        copies = Copies(rows, self.data.shape, self.layout)
        own = [t.at(copies) for t in self.terms]
        return Part(copies, own, copies.expanded(self.moments_of_all))

    def parts(self, rows: Tensor | None = None) -> Iterator[Part]:
        """The data in parts of which one at a time is held.

        :param rows: flat positions; all if None.
        """
        numbers = sum(t.numel() for n in self.naturals.values() for t in n)
        size = max(1, PIECE // max(1, numbers))
        rows = positions(self.data.shape) if rows is None else rows
        for some in rows.split(size):
            yield self.part(some)

    def leaving(self, part: Part, depends_on_q: bool) -> Leaving:
        """q without each datum of a part.

        :param depends_on_q: whether the data's own messages do.
        :raises ImproperPosteriorError: if q without some datum is no distribution.
        """
        messages = part.messages()
        nowhere = {b: tuple(torch.zeros_like(t) for t in n) for b, n in messages.items()}
        moved, is_inside = self._towards(nowhere, self._answers(messages))
        if not depends_on_q:
            self._refuse(part, ~is_inside)
            return Leaving(self._plus(moved), messages)
        is_settled = torch.zeros(part.copies.count, dtype=torch.bool)
        for _ in range(ROUNDS):
            messages = part.messages(part.moments(self._plus(moved)))
            new, is_inside = self._towards(moved, self._answers(messages))
            is_settled = is_inside & (self._length(new, moved) < SETTLED)
            moved = new
            if host.truth(is_settled.all()):
                break
        self._refuse(part, ~is_settled)
        return Leaving(self._plus(moved), messages)

    def _answers(self, messages: Naturals) -> dict[Block, Natural]:
        """What q moves by when messages are taken out."""
        answers = messages if self.response is None else self.response.to(messages)
        return {b: tuple(-t for t in n) for b, n in answers.items()}

    def _plus(self, moved: Naturals) -> dict[Block, Natural]:
        return {
            b: tuple(n + d for n, d in zip(self.naturals[b], moved[b], strict=True)) for b in moved
        }

    def _towards(self, old: Naturals, new: Naturals) -> tuple[dict[Block, Natural], Tensor]:
        """Moves to new places, halved for the data that would leave the cone.

        :returns: the moves, and for which data the whole of it is inside. # shape: (C,)
        """
        is_whole = self._are_inside(new)
        is_inside, share = is_whole, torch.ones(len(is_whole), dtype=torch.float64)
        result = dict(new)
        for _ in range(HALVINGS):
            if host.truth(is_inside.all()):
                break
            share = torch.where(is_inside, share, 0.5 * share)
            result = {
                b: tuple(
                    o + share.reshape(-1, *(1,) * (o.dim() - 1)) * (n - o)
                    for o, n in zip(old[b], new[b], strict=True)
                )
                for b in new
            }
            is_inside = self._are_inside(result)
        return result, is_whole

    def _are_inside(self, moved: Naturals) -> Tensor:
        """Whether q with each of some moves is a distribution. # shape: (C,)"""
        inside = []
        for block, natural in self._plus(moved).items():
            own = block.family.in_domain(natural)
            inside.append(own.reshape(len(own), -1).all(-1).cpu())
        return torch.stack(inside).all(0)

    def _length(self, new: Naturals, old: Naturals) -> Tensor:
        """Half the squared length of what moves differ by, in nats. # shape: (C,)"""
        total = []
        for block, moves in new.items():
            step = tuple(n - o for n, o in zip(moves, old[block], strict=True))
            at = tuple(n.expand(s.shape) for n, s in zip(self.naturals[block], step, strict=True))
            product = fisher_product(block.family, at, step)
            each = [(p * s).reshape(len(s), -1).sum(-1) for p, s in zip(product, step, strict=True)]
            total.append(torch.stack(each).sum(0).cpu())
        return 0.5 * torch.stack(total).sum(0).abs()

    def _refuse(self, part: Part, wrong: Tensor) -> None:
        """Refuse a datum without which there is no posterior."""
        if not host.truth(wrong.any()):
            return
        rows = [int(n) for n in part.copies.rows[: part.copies.count][wrong]]
        raise errors.ImproperPosteriorError(
            f"without datum {rows[0]} of plate {next(iter(self.data.plates.values()))!r} "
            f"({len(rows)} such) the messages that are left do not sum to a proper distribution, "
            "or are too far from where they were found. Mend: a proper prior; or fit anew without "
            "it, blr.without(index).fit()."
        )
