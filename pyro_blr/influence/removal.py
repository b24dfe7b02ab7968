# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""q without one datum, for every datum: the message taken out, and the others' answer to that.

The optimum without datum n solves ``natural' = M(natural') - m_n(natural')``. The messages that are
left are taken at first order about the optimum with all data,

    natural' = natural + d,        d = (J - J_n) d - m_n,        d = -R (m_n + J_n d),

R the linear response (:mod:`.response`), J_n the derivative of m_n. That is one Newton step on the
fixed point, with the datum's own part of J taken out: so that a datum that holds q alone, and whose
removal moves it far, is let go of completely. Where messages do not depend on q it is ``natural -
m_n``, and exact.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from .. import errors
from ..families import Natural
from ..lifting import host
from ..lifting.blocks import Block
from ..lifting.moments import Moments
from .coordinates import Coordinates
from .copies import Copies, positions
from .data import Data
from .mixing import Mixing
from .parts import Naturals, Part
from .response import Response
from .terms import Term

#: Numbers of natural parameters of all copies that are worked on at once: 8 MB.
PIECE = 2**20

#: Rounds of the linear system, and the squared length in nats of a residual that ends them. A
#: datum's message depends on q through a few numbers, so that as many rounds are enough.
ROUNDS, SETTLED = 20, 1e-14

#: Nats that a datum moves q by from which on the others' messages are taken anew, by a pass over
#: all data each time; the passes that one datum gets, and the length of a move that ends them.
FAR, PASSES, CLOSE = 0.03, 10, 1e-5

#: Standard deviations over which derivatives of messages are central differences.
NEARBY = 1e-4

#: Halvings of a move that would leave the cone.
HALVINGS = 30

#: Data that may be refitted without, where the passes do not settle.
REFITS = 20

Refit = Callable[[int], Mapping[Block, Natural] | None]


@dataclass(frozen=True, eq=False)
class Leaving:
    """q without each of some data.

    :param naturals: natural parameters. # shape of each: (C, *natural)
    :param messages: what was taken out. # shape of each: (C, *natural)
    :param is_exact: whether no message depends on q.
    :param unsettled: flat positions of data whose removal was not solved; q is there as with them.
    """

    naturals: dict[Block, Natural]
    messages: dict[Block, Natural]
    is_exact: bool
    unsettled: tuple[int, ...] = ()


class Removal:
    """What is needed to take single data out of a fit.

    :param data: what a datum is.
    :param terms: their terms.
    :param naturals: q at its optimum with all data.
    :param moments: its moments, and those of points.
    :param response: how q answers; None where the messages of all data do not depend on q, or the
        others' answer is left out.
    :param layout: the block of each site.
    :param is_exact: whether no message depends on q.
    :param messages: the sum of all messages at natural parameters.
    :param refit: fits q without a datum, by flat position; None where it does not come to an end.
    """

    def __init__(
        self,
        data: Data,
        terms: Sequence[Term],
        naturals: Naturals,
        moments: Mapping[Block, Moments],
        response: Response | None,
        layout: Mapping[str, Block],
        is_exact: bool,
        messages: Callable[[Naturals], Naturals],
        refit: Refit = lambda _: None,
    ) -> None:
        self.data, self.terms = data, terms
        self.naturals, self.moments_of_all = naturals, moments
        self.response, self.layout = response, layout
        self.is_exact = is_exact
        self.messages = messages
        self.coordinates = Coordinates(naturals)
        self.refit = refit
        #: Moves of data that matter, by flat position; None where they are not known.
        self._known: dict[int, Tensor | None] = {}
        self._refits = 0

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

    def leaving(self, part: Part) -> Leaving:
        """q without each datum of a part.

        :raises ImproperPosteriorError: if q without some datum is no distribution.
        """
        messages = part.messages()
        if self.is_exact:
            left = {
                b: tuple(n - m for n, m in zip(self.naturals[b], own, strict=True))
                for b, own in messages.items()
            }
            self._refuse(part, ~are_inside(left))
            return Leaving(left, messages, True)
        first = self.answers(messages)
        aim = self._solve(part, first)
        moved = self._inside(torch.zeros_like(first), aim)
        far = (self.length(moved) > FAR) | (moved != aim).any(-1)
        rows = part.copies.rows[: len(far)]
        self._settle(rows[far.cpu()], moved[far])
        unsettled = []
        for k in far.nonzero().flatten().tolist():
            found = self._known[int(rows[k])]
            moved[k] = 0.0 if found is None else found
            unsettled += [int(rows[k])] if found is None else []
        return Leaving(self.plus(moved), messages, False, tuple(unsettled))

    def _settle(self, rows: Tensor, moved: Tensor) -> None:
        """Find the moves of data that matter: by passes, and by refits where they do not settle."""
        new = torch.tensor(
            [n not in self._known for n in rows.tolist()], dtype=torch.bool, device="cpu"
        )
        if not bool(new.any()):
            return
        rows, moved = rows[new], moved[new.to(moved.device)]
        moved, is_open = self._corrected(self.part(rows), moved)
        for n, move, left in zip(rows.tolist(), moved, is_open.tolist(), strict=True):
            self._known[n] = self._refitted(n) if left else move.clone()

    def _refitted(self, datum: int) -> Tensor | None:
        if self._refits >= REFITS:
            return None
        self._refits += 1
        found = self.refit(datum)
        if found is None:
            return None
        moves = {
            b: tuple((f.to(n) - n).unsqueeze(0) for f, n in zip(found[b], own, strict=True))
            for b, own in self.naturals.items()
        }
        return self.coordinates.flat(moves)[0]

    def together(self, rows: Tensor, shares: Tensor) -> dict[Block, Natural]:
        """q without shares of several data at once, at first order in what is left.

        :param shares: of each datum what is taken out; negative for what is added. # shape: (k,)
        """

        def summed(messages: Callable[[Part], Naturals]) -> Tensor:
            total, start = None, 0
            for part in self.parts(rows):
                own = shares[start : start + part.copies.count]
                flat = self.coordinates.flat(messages(part))
                one = own.to(flat) @ flat
                total = one if total is None else total + one
                start += part.copies.count
            assert total is not None
            return total.unsqueeze(0)

        first = -self._response_to(summed(lambda part: part.messages()))
        moved = self._fixed_point(first, lambda moved: summed(partial(self._changes, moved=moved)))
        kept = self._inside(torch.zeros_like(moved), moved)
        return {b: tuple(t[0] for t in n) for b, n in self.plus(kept).items()}

    def _solve(self, part: Part, first: Tensor) -> Tensor:
        """``d = first - R J_n d``, J_n the derivative of the datum's message. # shape: (C, numbers)

        :param first: -R times what is taken out.
        """
        return self._fixed_point(
            first, lambda moved: self.coordinates.flat(self._changes(part, moved))
        )

    def _fixed_point(self, first: Tensor, changes: Callable[[Tensor], Tensor]) -> Tensor:
        """``d = first - R changes(d)``, changes being linear."""
        if self.response is None:
            return first
        steps, moved, new = Mixing(self.response.metric), torch.zeros_like(first), first
        for _ in range(ROUNDS):
            moved = steps.next(moved, new)
            new = first - self._response_to(changes(moved))
            if host.truth((self.length(new - moved) < SETTLED).all()):
                break
        return moved

    def _corrected(self, part: Part, moved: Tensor) -> tuple[Tensor, Tensor]:
        """The moves of data that matter: the others' messages are taken anew where q ends.

        :returns: the moves, and which have not settled: those at whose end messages are not in
            balance, or whose last step was long.
        """
        steps = Mixing(None if self.response is None else self.response.metric)
        left = torch.zeros_like(moved)
        is_open = torch.ones(len(moved), dtype=torch.bool, device=moved.device)
        for count in range(PASSES + 1):
            naturals = self.plus(moved)
            own = self.coordinates.flat(part.messages(part.moments(naturals)))
            for k in is_open.nonzero().flatten().tolist():
                here = {b: tuple(t[k] for t in n) for b, n in naturals.items()}
                every = {
                    b: tuple(t.unsqueeze(0) for t in m) for b, m in self.messages(here).items()
                }
                left[k] = self.coordinates.flat(every)[0] - own[k]
            missing = torch.where(
                is_open.unsqueeze(-1), left - self.coordinates.flat(naturals), 0.0
            )
            step = self._solve(part, self._response_to(missing))
            longest = torch.maximum(self.length(step), self._length_at(naturals, missing))
            is_open = is_open & ~(longest <= CLOSE)
            if count == PASSES or not host.truth(is_open.any()):
                break
            next_ = self._inside(moved, steps.next(moved, moved + step))
            moved = torch.where(is_open.unsqueeze(-1), next_, moved)
        return moved, is_open

    def _length_at(self, naturals: Naturals, step: Tensor) -> Tensor:
        """Half the squared length of each step in the metric of its own q. # shape: (C,)"""
        total = torch.zeros(len(step), dtype=step.dtype, device=step.device)
        for block, own in self.coordinates.unflat(step).items():
            product = block.family.fisher(naturals[block], own)
            for p, d in zip(product, own, strict=True):
                total = total + (p * d).reshape(len(d), -1).sum(-1)
        return 0.5 * total

    def _changes(self, part: Part, moved: Tensor) -> dict[Block, Natural]:
        """What the messages of the data change by, at first order, where q moves.

        :param moved: for each datum, or one move for all.
        """
        moved = moved.expand(part.copies.count, -1)
        length = (2 * self.length(moved)).sqrt().clamp_min(1.0)
        step = (NEARBY / length).unsqueeze(-1)
        ahead, behind = (
            part.messages(part.moments(self.plus(sign * step * moved))) for sign in (1, -1)
        )
        return {
            b: tuple(
                (a - o) / (2 * step.reshape(-1, *(1,) * (a.dim() - 1)))
                for a, o in zip(ahead[b], behind[b], strict=True)
            )
            for b in ahead
        }

    def answers(self, messages: Naturals) -> Tensor:
        """What q moves by when messages are taken out. # shape: (C, numbers)"""
        return -self._response_to(self.coordinates.flat(messages))

    def _response_to(self, messages: Tensor) -> Tensor:
        """What q moves by when messages are added. # shape: (C, numbers)"""
        return messages if self.response is None else self.response.to(messages)

    def plus(self, moved: Tensor) -> dict[Block, Natural]:
        """q with each of some moves. # shape of each: (C, *natural)"""
        moves = self.coordinates.unflat(moved)
        return {
            b: tuple(n + d for n, d in zip(self.naturals[b], moves[b], strict=True)) for b in moves
        }

    def _inside(self, old: Tensor, new: Tensor) -> Tensor:
        """Moves to new places, halved for the data that would leave the cone. # shape as given"""
        new = torch.where(torch.isfinite(new).all(-1, keepdim=True), new, old)
        result, share = new, new.new_ones(len(new), 1)
        for _ in range(HALVINGS):
            is_inside = are_inside(self.plus(result))
            if host.truth(is_inside.all()):
                break
            share = torch.where(is_inside.unsqueeze(-1), share, 0.5 * share)
            result = torch.where(share < 1, old + share * (new - old), new)
        return result

    def length(self, step: Tensor) -> Tensor:
        """Half the squared length of steps in the Fisher metric, in nats. # shape: (C,)"""
        if self.response is not None:
            return 0.5 * ((step @ self.response.metric) * step).sum(-1)
        return self._length_at(self.plus(torch.zeros_like(step)), step)

    def _refuse(self, part: Part, wrong: Tensor) -> None:
        """Refuse a datum without which there is no posterior."""
        if not host.truth(wrong.any()):
            return
        rows = [int(n) for n in part.copies.rows[: part.copies.count][wrong.cpu()]]
        raise errors.ImproperPosteriorError(
            f"without datum {rows[0]} of plate {next(iter(self.data.plates.values()))!r} "
            f"({len(rows)} such) the messages that are left do not sum to a proper distribution. "
            "Mend: a proper prior; messages_of(index) and without(index) serve for the others."
        )


def are_inside(naturals: Naturals) -> Tensor:
    """Whether each of a batch of q is a distribution. # shape: (C,)"""
    inside = [b.family.in_domain(natural) for b, natural in naturals.items()]
    return torch.stack([own.reshape(len(own), -1).all(-1) for own in inside]).all(0)
