# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""``log E_q'[p(datum | latents)]`` in nats, at a q' of each datum's own.

How depends on what the datum's log density is, given the others in turn:

- linear in the mean parameters of a block: ``A(natural' + m) - A(natural') + c``, m its message
  and c what has no latents. The other blocks that it depends on are integrated over before, one
  number by the trapezoidal rule in its standard normal noise, more of them at draws;
- an elementwise function of one or two Gaussian scalars: by quadrature over these;
- anything else: at common draws of q, weighted by q'/q.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..energy.build import quadrature_of
from ..energy.draws import Draws
from ..energy.latents import Latents
from ..estimators import gaussian_points
from ..families import Natural
from ..lifting.blocks import Block
from ..lifting.moments import Moments
from ..lifting.plan import Mass, Plan, is_linear_product
from ..lifting.points import PointBlock
from ..lifting.statistics import COV, Statistic, sufficient_statistics
from ..lifting.tensor import LiftedTensor, replay
from .removal import Leaving, Part, Removal, messages_of
from .terms import CopiedExact, ExactTerm, QuadratureTerm, Term

#: The rule over a number's standard normal noise: steps of 0.2 within 8 standard deviations.
NODES, WIDTH = 81, 8.0

#: Draws where no rule serves: of the other blocks, and of all.
DRAWS, SHARED_DRAWS = 256, 4096


class Prediction(ABC):
    """How the predictive densities are computed.

    :param how: in words.
    """

    how: str

    @abstractmethod
    def log_density(self, part: Part, leaving: Leaving) -> Tensor:
        """``log E_q'[p(datum | latents)]`` of each datum of a part. # shape: (C,)"""


# ------------------------------------------------------------------------------ one block's family


class Pointwise(Moments):
    """The statistics of a block at values, where others have expectations.

    :param value: # shape: (C, *block)
    """

    def __init__(self, block: Block, natural: Natural, value: Tensor) -> None:
        self.block, self.natural, self.value = block, natural, value
        self._cache: dict[Statistic, Tensor] = {}
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
        sizes = [math.prod(b.batch_shape) * (b.event_size or 1) for b in self.others]
        alone = all(b.family.event_dim == 0 for b in self.others)
        return sizes == [1] and alone

    def log_density(self, part: Part, leaving: Leaving) -> Tensor:
        if leaving.is_exact and self.counts_once:
            return self._gap(part, leaving)
        own = [t.unscaled().at(part.copies) for t in self.terms]
        if not self.others:
            return self._given(own, part, part.expanded, leaving)
        total: Tensor | None = None
        moments = part.moments(leaving.naturals)
        for log_weight, values in self._values(part, moments):
            at = dict(moments)
            for copied, value in values.items():
                at[copied] = Pointwise(copied, moments[copied].natural, value)
            term = self._given(own, part, at, leaving) + log_weight
            total = term if total is None else torch.logaddexp(total, term)
        assert total is not None
        return total

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
        total = torch.zeros(count, dtype=torch.float64)
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
            total = total + _rows(family.log_partition(grown), count)
            total = total - _rows(family.log_partition(natural), count)
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
            total = total - _rows(block.family.kl(whole, left), part.copies.count)
        return total

    @property
    def counts_once(self) -> bool:
        """Whether a datum counts once, so that its message is that of its density."""
        return all(isinstance(t.site.scale, int | float) and t.site.scale == 1 for t in self.terms)

    def _values(self, part: Part, moments: Mapping[Block, Moments]) -> Any:
        """Log weights and values of the other blocks' copies, one node or draw after the other."""
        copied = [part.copies.blocks[b] for b in self.others]
        shapes = [moments[c].noise_shape for c in copied]
        if self._is_one_number:
            nodes = torch.linspace(-WIDTH, WIDTH, NODES, dtype=torch.float64)
            weights = (-0.5 * nodes.square()).log_softmax(0)
            points = nodes.unsqueeze(-1)
        else:
            numbers = sum(math.prod(s[1:]) for s in shapes if s is not None)
            points = gaussian_points(DRAWS, numbers, 0)
            weights = torch.full((DRAWS,), -math.log(DRAWS), dtype=torch.float64)
        sizes = [math.prod(s[1:]) for s in shapes if s is not None]
        for weight, point in zip(weights, points, strict=True):
            found = {}
            for block, shape, noise in zip(copied, shapes, point.split(sizes), strict=True):
                assert shape is not None
                own = noise.reshape(1, 1, *shape[1:]).expand(1, *shape)
                found[block] = moments[block].draw(own.to(moments[block].leaves[0]))[0].detach()
            yield weight, found


def _rows(value: Tensor, count: int) -> Tensor:
    """The sum over all dims but the first, of so many rows."""
    return value.reshape(len(value), -1).sum(-1)[:count]


# -------------------------------------------------------------------------------------- quadrature


@dataclass(eq=False)
class ByQuadrature(Prediction):
    """The density is a function of one or two Gaussian scalars."""

    term: QuadratureTerm

    how = "by quadrature"

    def log_density(self, part: Part, leaving: Leaving) -> Tensor:
        copied = self.term.at(part.copies)
        with torch.no_grad():
            moments = part.moments(leaving.naturals)
            scalars = copied.all_scalars(moments)
            rule = copied.rule_for(scalars)
            nodes, weights = rule.nodes(scalars.means[0].dtype, scalars.means[0].device)
            total: Tensor | None = None
            factor = self.term.factor
            step = max(1, 2**20 // max(1, factor.predictor.density.numel()))
            for t, w in zip(nodes.split(step), weights.split(step), strict=True):
                values = factor.integrand.function(*scalars.at(t)).double()
                w = w.log().reshape(-1, *(1,) * (values.dim() - 1))
                piece = torch.logsumexp(values + w, 0)
                total = piece if total is None else torch.logaddexp(total, piece)
            assert total is not None
            (at_site,) = replay([factor.summed.node], {id(factor.predictor.density): total})
            value = self.term.by_datum(at_site * self.term.present).sum(-1)
        return value[part.copies.rows[: part.copies.count]]


# ------------------------------------------------------------------------------------------- draws


@dataclass(eq=False)
class ByDraws(Prediction):
    """The mean of the density over draws of q, weighted by q'/q."""

    terms: Sequence[Term]
    latents: Latents
    removal: Removal

    how = f"the mean of {SHARED_DRAWS} draws"

    def log_density(self, part: Part, leaving: Leaving) -> Tensor:
        draws = Draws(self.latents, SHARED_DRAWS, seed=0)
        own = self.removal.naturals
        moments = {b: m for b, m in self.removal.moments_of_all.items() if b in own}
        rows = part.copies.rows[: part.copies.count]
        with torch.no_grad():
            drawn = {b: d.detach() for b, d in draws.of_blocks(moments, own).items()}
            densities = self._densities(draws, drawn, rows)
            logs = torch.zeros_like(densities)
            for block, natural in leaving.naturals.items():
                logs = logs + _log_ratio(block, own[block], natural, drawn[block])
        return torch.logsumexp(densities + logs, 0) - torch.logsumexp(logs, 0)

    def _densities(self, draws: Draws, drawn: dict[Block, Tensor], rows: Tensor) -> Tensor:
        """The log density of the data at each draw. # shape: (S, C)"""
        nodes = [t.site.log_prob for t in self.terms]

        def at(values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            sites = {s: values[s.name] for n in nodes for s in n.sites}
            results = replay(nodes, sites)
            each = [
                t.by_datum(torch.where(t.present != 0, r.double(), 0.0)).sum(-1)
                for t, r in zip(self.terms, results, strict=True)
            ]
            return (torch.stack(each).sum(0)[rows],)

        numbers = sum(n.numel() for n in nodes)
        (found,) = draws.mapped(at, draws.by_site(drawn), numbers=numbers)
        return found


def _log_ratio(block: Block, before: Natural, after: Natural, drawn: Tensor) -> Tensor:
    """log q'/q at draws, for every datum's q'. # shape: (S, C)"""
    statistics = block.family.sufficient_statistics(drawn, before)
    total = []
    for t, old, new in zip(statistics, before, after, strict=True):
        total.append(t.reshape(len(t), -1) @ (new - old).reshape(len(new), -1).mT)
    log_partition = block.family.log_partition
    constant = _rows(log_partition(after), len(after[0])) - log_partition(before).sum()
    return torch.stack(total).sum(0) - constant


# ---------------------------------------------------------------------------------- which of these


def prediction_of(
    terms: Sequence[Term], removal: Removal, latents: Latents, tolerance: float
) -> Prediction:
    """The best way to predict data from the others.

    :param tolerance: of quadrature, in nats a datum.
    """
    if all(isinstance(t, ExactTerm) for t in terms):
        exact = [t for t in terms if isinstance(t, ExactTerm)]
        found = _conjugate(exact, removal)
        if found is not None:
            return found
    if len(terms) == 1:
        by_quadrature = _quadrature(terms[0], removal, tolerance)
        if by_quadrature is not None:
            return by_quadrature
    return ByDraws(terms, latents, removal)


def _conjugate(terms: Sequence[ExactTerm], removal: Removal) -> Conjugate | None:
    """The blocks in whose mean parameters the terms are linear given the others, if there are."""
    one = removal.part(torch.zeros(1, dtype=torch.long))
    products = [p for t in terms for p in t.at(one.copies).plan.products]
    original = {copied: b for b, copied in one.copies.blocks.items()}
    used = list(dict.fromkeys(b for p in products for b in p.blocks if b in original))
    linear = [b for b in used if all(is_linear_product(p.stats, b) for p in products)]
    if len(linear) == len(used) and all(len(p.blocks & set(used)) < 2 for p in products):
        return Conjugate(terms, tuple(original[b] for b in used), (), removal)
    has_parameters = any(isinstance(b, PointBlock) for p in products for b in p.blocks)
    has_masses = any(isinstance(s, Mass) for p in products for s in p.stats)
    if has_parameters or has_masses:
        return None
    for block in sorted(linear, key=_numbers, reverse=True):
        others = tuple(original[b] for b in used if b is not block)
        with_noise = (removal.moments_of_all[b].noise_shape is not None for b in others)
        if all(with_noise) and not any(b.row_dims for b in others):
            return Conjugate(terms, (original[block],), others, removal)
    return None


def _numbers(block: Block) -> int:
    return math.prod(block.batch_shape) * (block.event_size or 1)


def _quadrature(term: Term, removal: Removal, tolerance: float) -> ByQuadrature | None:
    if isinstance(term, ExactTerm):
        assert isinstance(term.site.log_prob, LiftedTensor)
        factor = quadrature_of(term.site, removal.layout)
        if factor is None or not factor.calibrate(removal.moments_of_all, tolerance):
            return None
        term = QuadratureTerm(term.site, term.data, factor)
    if isinstance(term, QuadratureTerm) and term.keeps_data_apart and term.elements == 1:
        return ByQuadrature(term)
    return None

