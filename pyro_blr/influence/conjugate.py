# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Predictions in closed form: of densities that are linear in mean parameters.

Where the log density is ``<m, T(z)> + c`` for a block z of q' with natural parameters n,

    log E_q'[p(datum | z)] = A(n + m) - A(n) + c.

Other blocks that m depends on are integrated over before: one number by the trapezoidal rule in its
standard normal noise, more of them at draws.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..estimators import gaussian_points
from ..families import Beta, Natural, Normal
from ..lifting import host
from ..lifting.blocks import Block
from ..lifting.moments import Moments
from ..lifting.plan import Mass, Plan, is_linear_product
from ..lifting.statistics import COV, Statistic, sufficient_statistics
from .copies import HELD
from .parts import Part, messages_of
from .removal import Leaving, Removal
from .terms import CopiedExact, ExactTerm

#: The rule over a number's standard normal noise: steps of 0.2 within 8 standard deviations.
NODES, WIDTH = 81, 8.0

#: Draws of the other blocks where no rule serves, and those that must carry their mean.
DRAWS, CARRIED = 256, 8.0

#: Nats below the integral that integrands must be at both ends of a rule. The rule over values,
#: which serves where those in the noise are not, goes so many standard deviations further until
#: they are, in so many doublings.
ENDS, STEP, FARTHER, DOUBLINGS = 16.0, 0.2, 16.0, 5


class Prediction(ABC):
    """How the predictive densities are computed.

    :param how: in words.
    """

    how: str

    @abstractmethod
    def log_density(self, part: Part, leaving: Leaving) -> Tensor:
        """``log E_q'[p(datum | latents)]`` of each datum of a part. # shape: (C,)"""


class Pointwise(Moments):
    """The statistics of a block at values, where others have expectations.

    :param value: # shape: (C, *block)
    """

    def __init__(self, block: Block, natural: Natural, value: Tensor) -> None:
        self.block, self.natural, self.value = block, natural, value
        self._cache: dict[tuple[Hashable, bool], Tensor] = {}
        self.leaves = (value,)

    def _coordinates(self, natural: Natural) -> tuple[Tensor, ...]:
        raise NotImplementedError

    def _statistic(self, which: Statistic) -> Tensor:
        sufficient = sufficient_statistics(self.block)
        if which in sufficient:
            statistics = self.block.family.sufficient_statistics(self.value, self.natural)
            return statistics[sufficient.index(which)]
        if which == COV:
            size = self.block.event_size
            shape = self.value.shape if size is None else (*self.value.shape, size)
            return self.value.new_zeros(shape)
        kind, power = which
        assert kind == "power"
        return self.value**power

    def message(self, gradient: tuple[Tensor, ...]) -> Natural:
        raise NotImplementedError

    def log_prob(self, value: Tensor) -> Tensor:
        raise NotImplementedError

    def draw(self, noise: Tensor | None = None, count: int = 1) -> Tensor:
        raise NotImplementedError


@dataclass(eq=False)
class Conjugate(Prediction):
    """The log density is linear in mean parameters of some blocks, given the others' values.

    :param terms: of a datum.
    :param blocks: whose families the integral over them has, each by itself.
    :param others: the other blocks.
    """

    terms: Sequence[ExactTerm]
    blocks: tuple[Block, ...]
    others: tuple[Block, ...]
    removal: Removal

    @property
    def how(self) -> str:  # type: ignore[override]
        if not self.others:
            return "in closed form"
        names = ", ".join(b.name for b in self.others)
        return f"in closed form given {names}, which {self._rule} integrates over"

    @property
    def _rule(self) -> str:
        return "quadrature" if self._is_one_number else f"the mean of {DRAWS} draws"

    @property
    def _is_one_number(self) -> bool:
        alone = all(b.family.event_dim == 0 for b in self.others)
        return [b.numel for b in self.others] == [1] and alone

    def log_density(self, part: Part, leaving: Leaving) -> Tensor:
        if leaving.is_exact and self.counts_once:
            return self._gap(part, leaving)
        own = [t.unscaled().at(part.copies) for t in self.terms]
        if not self.others:
            return self._given(own, part, part.expanded, leaving)
        total = squares = first = term = None
        moments = part.moments(leaving.naturals)
        for log_weight, values in self._values(part, moments):
            at = dict(moments)
            for copied, value in values.items():
                at[copied] = Pointwise(copied, moments[copied].natural, value)
            term = self._given(own, part, at, leaving) + log_weight
            first = term if first is None else first
            total = term if total is None else torch.logaddexp(total, term)
            squares = 2 * term if squares is None else torch.logaddexp(squares, 2 * term)
        assert total is not None
        assert first is not None
        assert term is not None
        assert squares is not None
        if not self._is_one_number:
            is_carried = (2 * total - squares).exp() >= CARRIED
            return torch.where(is_carried, total, math.nan)
        is_cut = ~(torch.maximum(first, term) < total - ENDS)
        if host.truth(is_cut.any()):
            total[is_cut] = self._over_values(part, leaving, is_cut)
        return total

    def _over_values(self, part: Part, leaving: Leaving, which: Tensor) -> Tensor:
        """The integral of some data over values of the one other number, as far as it goes.

        NaN where no end is found. # shape: (k,)
        """
        rows = part.copies.rows[: len(which)][which.cpu()]
        naturals, messages = (
            {b: tuple(t[which] for t in n) for b, n in of.items()}
            for of in (leaving.naturals, leaving.messages)
        )
        part, leaving = self.removal.part(rows), Leaving(naturals, messages, False)
        own = [t.unscaled().at(part.copies) for t in self.terms]
        moments, copied = part.moments(naturals), part.copies.blocks[self.others[0]]
        line = _Line(moments[copied])
        half = FARTHER
        for _ in range(DOUBLINGS):
            count = int(half / STEP)
            terms = []
            for k in range(-count, count + 1):
                value, log_weight = line.at(STEP * k)
                at = {**moments, copied: Pointwise(copied, moments[copied].natural, value)}
                weight = rows_of(log_weight, len(rows)) + math.log(STEP)
                terms.append(self._given(own, part, at, leaving) + weight)
            every = torch.stack(terms)
            every = torch.where(every.isnan(), -math.inf, every)
            total = torch.logsumexp(every, 0)
            is_whole = torch.maximum(every[0], every[-1]) < total - ENDS
            if host.truth(is_whole.all()):
                break
            half *= 2
        return torch.where(is_whole, total, math.nan)

    def _given(
        self,
        own: Sequence[CopiedExact],
        part: Part,
        moments: Mapping[Block, Moments],
        leaving: Leaving,
    ) -> Tensor:
        """The log of the integral over these blocks alone. # shape: (C,)

        :param moments: of the other blocks' copies; those of the blocks themselves do not matter.
        """
        count = part.copies.count
        copied = {part.copies.blocks[b] for b in self.blocks}
        first, *_ = leaving.naturals.values()
        total = first[0].new_zeros(count)
        for term in own:
            rest = tuple(p for p in term.plan.products if not copied & p.blocks)
            value = Plan(term.plan.dims, rest).values(moments, term.free).detach()
            total = total + value.expand(part.copies.axis.size)[:count]
        if self.counts_once and not self.others:
            messages = leaving.messages
        else:
            messages = messages_of(own, part.copies, moments, self.blocks)
        for block in self.blocks:
            family, natural = block.family, leaving.naturals[block]
            grown = tuple(n + m for n, m in zip(natural, messages[block], strict=True))
            total = total + rows_of(family.log_partition(grown), count)
            total = total - rows_of(family.log_partition(natural), count)
        return total

    def _gap(self, part: Part, leaving: Leaving) -> Tensor:
        """The same where q' and the datum's message make q: ``E_q[log p(datum)] - KL(q, q')``.

        Log-partitions of many data agree in most of their digits, which this does not subtract.
        """
        total = part.values(part.expanded)
        for block in self.blocks:
            left = leaving.naturals[block]
            every = part.copies.natural(self.removal.naturals[block])
            whole = tuple(n[: part.copies.count] for n in every)
            total = total - rows_of(block.family.kl(whole, left), part.copies.count)
        return total

    @property
    def counts_once(self) -> bool:
        """Whether a datum counts once, so that its message is that of its density."""
        return all(isinstance(t.site.scale, int | float) and t.site.scale == 1 for t in self.terms)

    def _values(
        self, part: Part, moments: Mapping[Block, Moments]
    ) -> Iterator[tuple[Tensor, dict[Block, Tensor]]]:
        """Log weights and values of the other blocks' copies, one node or draw after the other."""
        copied = [part.copies.blocks[b] for b in self.others]
        shapes = [moments[c].noise_shape for c in copied]
        if self._is_one_number:
            nodes = torch.linspace(-WIDTH, WIDTH, NODES, dtype=torch.float64, device="cpu")
            weights = (-0.5 * nodes.square()).log_softmax(0)
            points = nodes.unsqueeze(-1)
        else:
            numbers = sum(math.prod(s[1:]) for s in shapes if s is not None)
            points = gaussian_points(DRAWS, numbers, 0)
            weights = points.new_full((DRAWS,), -math.log(DRAWS))
        sizes = [math.prod(s[1:]) for s in shapes if s is not None]
        for weight, point in zip(weights, points, strict=True):
            found = {}
            for block, shape, noise in zip(copied, shapes, point.split(sizes), strict=True):
                assert shape is not None
                own = noise.reshape(1, 1, *shape[1:]).expand(1, *shape)
                found[block] = moments[block].draw(own.to(moments[block].leaves[0]))[0].detach()
            yield weight, found


class _Line:
    """The values of one number of q along the real line, in about its standard deviations."""

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        shape = moments.noise_shape
        assert shape is not None
        like = moments.leaves[0]
        ends = [moments.draw(like.new_full((1, *shape), e))[0].detach() for e in (-3.0, 3.0)]
        family = moments.block.family
        self.is_log = not isinstance(family, Normal) and not isinstance(family, Beta)
        self.is_logit = isinstance(family, Beta)
        low, high = (e.logit() if self.is_logit else e.log() if self.is_log else e for e in ends)
        self.centre, self.spread = 0.5 * (low + high), (high - low).abs() / 6

    def at(self, place: float) -> tuple[Tensor, Tensor]:
        """The value there, and the log of its density along the line."""
        u = self.centre + place * self.spread
        value, slope = u, torch.zeros_like(u)
        if self.is_log:
            value, slope = u.exp(), u
        elif self.is_logit:
            value, slope = u.sigmoid(), u.sigmoid().log() + (-u).sigmoid().log()
        density = self.moments.log_prob(value.unsqueeze(0))[0].detach()
        return value, density + slope + self.spread.log()


def conjugate_prediction(terms: Sequence[ExactTerm], removal: Removal) -> Conjugate | None:
    """The blocks in whose mean parameters the terms are linear given the others, if there are."""
    one = removal.part(torch.zeros(1, dtype=torch.long, device="cpu"))
    products = [p for t in terms for p in t.at(one.copies).plan.products]
    original = {copied: b for b, copied in one.copies.blocks.items()}
    used = list(dict.fromkeys(b for p in products for b in p.blocks if b in original))
    linear = [b for b in used if all(is_linear_product(p.stats, b) for p in products)]
    if len(linear) == len(used) and all(len(p.blocks & set(used)) < 2 for p in products):
        return Conjugate(terms, tuple(original[b] for b in used), (), removal)
    has_held = any(isinstance(b, HELD) for p in products for b in p.blocks)
    has_masses = any(isinstance(s, Mass) for p in products for s in p.stats)
    if has_held or has_masses:
        return None
    for block in sorted(linear, key=lambda b: b.numel, reverse=True):
        others = tuple(original[b] for b in used if b is not block)
        with_noise = (removal.moments_of_all[b].noise_shape is not None for b in others)
        if all(with_noise) and not any(b.row_dims for b in others):
            return Conjugate(terms, (original[block],), others, removal)
    return None


def rows_of(value: Tensor, count: int) -> Tensor:
    """The sum over all dims but the first, of so many rows."""
    return value.reshape(len(value), -1).sum(-1)[:count]
