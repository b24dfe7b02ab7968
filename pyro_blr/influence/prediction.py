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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..energy.build import quadrature_of
from ..energy.draws import Draws
from ..energy.latents import Latents
from ..families import Natural
from ..lifting import host
from ..lifting.blocks import Block
from ..lifting.points import statistics_of
from ..lifting.quadrature import Rule
from ..lifting.scalars import Scalars
from ..lifting.tensor import LiftedTensor, replay
from .conjugate import CARRIED, Prediction, conjugate_prediction, rows_of
from .parts import Part
from .removal import Leaving, Removal
from .terms import ExactTerm, QuadratureTerm, Term

#: Draws where no rule serves, as many as leave so many densities to hold: those of data that the
#: others do not expect are the mean of few that are large.
FEWEST, MOST, HELD = 2**12, 2**15, 2**25

#: Standard deviations within which a density of one scalar and of two is integrated: that of an
#: outlier has its mass far out. A rule of one scalar is refined until it changes by so many nats.
WIDTHS, CHANGE, REFINEMENTS = (14.0, 9.0), 1e-4, 6

#: The share of draws that weights q'/q must leave effective; else draws are of q' itself.
EFFECTIVE = 0.2


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
            rule = Rule(rule.levels, max(rule.half_width, WIDTHS[len(rule.levels) - 1]))
            total = self._integral(scalars, rule)
            for _ in range(REFINEMENTS if len(rule.levels) == 1 else 0):
                rule = rule.refined((0,))
                total, before = self._integral(scalars, rule), total
                if not host.truth(((total - before).abs() > CHANGE).any()):
                    break
            factor = self.term.factor
            (at_site,) = replay([factor.summed.node], {id(factor.predictor.density): total})
            value = self.term.by_datum(at_site * self.term.present).sum(-1)
        return value[part.copies.rows[: part.copies.count]]

    def _integral(self, scalars: Scalars, rule: Rule) -> Tensor:
        """The log of the expected density, of each element. # shape: the density's"""
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
        return total


@dataclass(eq=False)
class ByDraws(Prediction):
    """The mean of the density over draws of q, weighted by q'/q."""

    terms: Sequence[Term]
    latents: Latents
    removal: Removal

    @property
    def how(self) -> str:  # type: ignore[override]
        return f"the mean of {self.count} draws"

    @property
    def count(self) -> int:
        """The number of draws."""
        return max(FEWEST, min(MOST, HELD // self.removal.data.count // 2 * 2))

    def log_density(self, part: Part, leaving: Leaving) -> Tensor:
        draws = Draws(self.latents, self.count, seed=0)
        own = self.removal.naturals
        moments = {b: m for b, m in self.removal.moments_of_all.items() if b in own}
        rows = part.copies.rows[: part.copies.count]
        with torch.no_grad():
            drawn = {b: d.detach() for b, d in draws.of_blocks(moments, own).items()}
            densities = self._densities(draws, drawn, rows)
            logs = torch.zeros_like(densities)
            for block, natural in leaving.naturals.items():
                logs = logs + _log_ratio(block, own[block], natural, drawn[block])
            shares = logs.softmax(0)
            found = torch.logsumexp(densities + logs, 0) - torch.logsumexp(logs, 0)
            is_far = shares.square().sum(0) * len(logs) * EFFECTIVE > 1
            for k in is_far.nonzero().flatten().tolist():
                found[k] = self._at_own_draws(draws, leaving, k, rows[k : k + 1])
            carrying = 1 / (densities + logs).softmax(0).square().sum(0)
        return torch.where(is_far | (carrying >= CARRIED), found, math.nan)

    def _at_own_draws(self, draws: Draws, leaving: Leaving, k: int, row: Tensor) -> Tensor:
        """The log of the mean density of a datum over draws of its own q'."""
        own = {b: tuple(t[k] for t in n) for b, n in leaving.naturals.items()}
        moments = {b: statistics_of(b, n) for b, n in own.items()}
        drawn = {b: d.detach() for b, d in draws.of_blocks(moments, own).items()}
        densities = self._densities(draws, drawn, row)[:, 0]
        found = torch.logsumexp(densities, 0) - math.log(len(densities))
        carrying = 1 / densities.softmax(0).square().sum()
        return torch.where(carrying >= CARRIED, found, math.nan)

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
    constant = rows_of(log_partition(after), len(after[0])) - log_partition(before).sum()
    return torch.stack(total).sum(0) - constant


def prediction_of(
    terms: Sequence[Term], removal: Removal, latents: Latents, tolerance: float
) -> Prediction:
    """The best way to predict data from the others.

    :param tolerance: of quadrature, in nats a datum.
    """
    if all(isinstance(t, ExactTerm) for t in terms):
        exact = [t for t in terms if isinstance(t, ExactTerm)]
        found = conjugate_prediction(exact, removal)
        if found is not None:
            return found
    if len(terms) == 1:
        by_quadrature = _quadrature(terms[0], removal, tolerance)
        if by_quadrature is not None:
            return by_quadrature
    return ByDraws(terms, latents, removal)


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
