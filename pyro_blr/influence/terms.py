# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The terms of L by datum: the expected log density of each, at a copy of q of its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .. import errors
from ..energy.factors import ConstantFactor, ExactFactor, Factor, QuadratureFactor
from ..energy.traced import TracedSite
from ..lifting.blocks import Block
from ..lifting.expectation import compile_plan
from ..lifting.keys import key_of
from ..lifting.laws import JointPlan, joint_plan
from ..lifting.moments import Moments
from ..lifting.plan import Plan
from ..lifting.polynomial import Polynomial, polynomial
from ..lifting.quadrature import Rule
from ..lifting.scalars import Scalars
from ..lifting.statistics import Statistic
from ..lifting.tensor import LiftedTensor, replay
from ..shapes import broadcast_shapes
from .copies import Copies
from .data import Data

CopiedMoments = Mapping[Block, Moments]


@dataclass(eq=False)
class Term(ABC):
    """An observed site's log density, datum by datum.

    :param site: the site.
    :param data: what a datum is.
    """

    site: TracedSite
    data: Data

    @abstractmethod
    def at(self, copies: Copies) -> "CopiedTerm":
        """The term of some data, each at its copy of the latents."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the site's log density under its plates."""
        depth = max(-d for d in self.data.dims)
        own = tuple(self.site.log_prob.shape)
        own = (1,) * (depth - len(own)) + own
        full = [1] * len(own)
        for dim, size in zip(self.data.dims, self.data.shape, strict=True):
            full[dim] = size
        return tuple(broadcast_shapes(own, tuple(full)))

    def by_datum(self, value: Tensor) -> Tensor:
        """A tensor like the log density as one with a row for each datum. # shape: (N, rest)"""
        front = torch.movedim(
            value.expand(self.shape), self.data.dims, tuple(range(len(self.data.dims)))
        )
        return front.reshape(self.data.count, -1)

    @cached_property
    def weights(self) -> Tensor:
        """What the elements of the log density count: scale times mask. # shape: (N, rest)"""
        scale = torch.as_tensor(self.site.scale, dtype=torch.float64, device=self.present.device)
        return self.by_datum(scale * self.present)

    @cached_property
    def present(self) -> Tensor:
        """1 where an element is observed, 0 where it is masked."""
        mask = self.site.mask
        if isinstance(mask, Tensor):
            return mask.double()
        device = self.site.log_prob.device
        return torch.tensor(0.0 if mask is False else 1.0, dtype=torch.float64, device=device)


@dataclass(eq=False)
class CopiedTerm(ABC):
    """The term of some data.

    :param copies: their copies of the latents.
    """

    copies: Copies

    @abstractmethod
    def values(self, moments: CopiedMoments) -> Tensor:
        """The expected log densities, scaled; differentiable in the leaves. # shape: (C,)"""

    def coefficients(self, moments: CopiedMoments, block: Block) -> dict[Statistic, Tensor] | None:
        """What multiplies the mean parameters of a copied block, if the term is linear in it."""
        return None


# ------------------------------------------------------------------------------- closed forms


@dataclass(eq=False)
class ExactTerm(Term):
    """A polynomial."""

    poly: Polynomial

    @cached_property
    def weighted(self) -> Polynomial:
        """The polynomial times mask and scale."""
        value = self.poly.expand_to(self.shape)
        if isinstance(self.site.mask, Tensor) or self.site.mask is False:
            value = value * polynomial(self.present)
        scale = self.site.scale
        if isinstance(scale, Tensor):
            return value * polynomial(scale)
        return value if scale == 1 else value * float(scale)

    def at(self, copies: Copies) -> "CopiedExact":
        value = copies.of(self.weighted, self.data.dims)
        plan = compile_plan(value, copies.copied_layout)
        return CopiedExact(copies, plan, key_of(value)[1])

    def unscaled(self) -> "ExactTerm":
        """The same term as if it counted once."""
        one = TracedSite(
            self.site.name, self.site.log_prob, 1.0, self.site.mask, self.site.dims, is_data=True
        )
        return ExactTerm(one, self.data, self.poly)


@dataclass(eq=False)
class CopiedExact(CopiedTerm):
    """A compiled polynomial with a value for each datum."""

    plan: Plan
    free: tuple[Tensor, ...]

    def values(self, moments: CopiedMoments) -> Tensor:
        return self.plan.values(moments, self.free)

    def constants(self, moments: CopiedMoments) -> Tensor:
        """The part of the log densities without latents. # shape: (C,)"""
        own = Plan(self.plan.dims, tuple(p for p in self.plan.products if not p.stats))
        value: Tensor = own.values(moments, self.free)
        return value.expand(self.copies.axis.size)

    def coefficients(self, moments: CopiedMoments, block: Block) -> dict[Statistic, Tensor] | None:
        if not self.plan.is_linear_in(block):
            return None
        return self.plan.coefficients(moments, self.free, block)


# --------------------------------------------------------------------------------- quadrature


@dataclass(eq=False)
class QuadratureTerm(Term):
    """A function of one or two Gaussian scalars for each element.

    :param factor: the factor of all data, whose rule and program serve.
    """

    factor: QuadratureFactor

    @property
    def extra(self) -> int:
        """Event dims of the elementwise log density, that the site's own sums over."""
        event: int = self.factor.predictor.density.dim() - self.site.log_prob.dim()
        return event

    @cached_property
    def dims(self) -> tuple[int, ...]:
        """The dims of the elementwise log density along which the data lie."""
        return tuple(d - self.extra for d in self.data.dims)

    @property
    def elements(self) -> int:
        """The elements of the log density that one datum has."""
        return self.factor.predictor.density.numel() // max(1, self.data.count)

    @property
    def keeps_data_apart(self) -> bool:
        """Whether the density's dims are the site's, and event dims behind them."""
        predictor, own = self.factor.predictor, tuple(self.site.log_prob.shape)
        shape = tuple(predictor.density.shape)
        is_deep = len(own) >= max(-d for d in self.data.dims)
        return not predictor.rearranges and shape[: len(own)] == own and is_deep

    def at(self, copies: Copies) -> "CopiedQuadrature":
        predictor = self.factor.predictor
        shape = tuple(predictor.density.shape)
        values = []
        for node in predictor.values:
            assert node.poly is not None
            values.append(copies.of(node.poly.expand_to(shape), self.dims, keep=True))
        joint = joint_plan(tuple(values), copies.copied_layout, True)
        return CopiedQuadrature(copies, self, joint, tuple(key_of(v)[1] for v in values))


@dataclass(eq=False)
class CopiedQuadrature(CopiedTerm):
    """The scalars' laws at the copies of some data.

    The recorded program has a value for every datum: those without a copy here are where the
    factor's own scalars are.
    """

    term: QuadratureTerm
    joint: JointPlan
    free: tuple[tuple[Tensor, ...], ...]

    def scalars(self, moments: CopiedMoments) -> Scalars:
        """The scalars' joint law for each element of these data. # shape: (C, *rest)"""
        return self.joint.evaluate(moments, self.free)

    def full(self, own: Tensor) -> Tensor:
        """Values of these data in their places among all. # shape: the density's"""
        shape = tuple(self.term.factor.predictor.density.shape)
        dims = self.term.dims
        rest = [size for d, size in enumerate(shape, -len(shape)) if d not in dims]
        own = own.expand(self.copies.axis.size, *rest)[: self.copies.count]
        rows = self.copies.rows[: self.copies.count].to(own.device)
        every = own.detach()[:1].expand(self.term.data.count, *rest)
        placed = every.index_copy(0, rows, own).reshape(*self.copies.shape, *rest)
        return torch.movedim(placed, tuple(range(len(dims))), dims)

    def all_scalars(self, moments: CopiedMoments) -> Scalars:
        """The scalars of all data, from which the program goes on."""
        own = self.scalars(moments)
        parts = (own.means, own.variances)
        means, variances = (tuple(self.full(t) for t in part) for part in parts)
        covariance = None if own.covariance is None else self.full(own.covariance)
        return Scalars(means, variances, covariance)

    def values(self, moments: CopiedMoments) -> Tensor:
        factor = self.term.factor
        scalars = self.all_scalars(moments)
        rule = self.rule_for(scalars)
        expected = factor.integrand.expectation(scalars, rule)
        density, node = factor.predictor.density, factor.summed.node
        if node is not density:
            (expected,) = replay([node], {id(density): expected})
        value = self.term.by_datum(expected.double())
        weighted = torch.where(self.term.weights != 0, value * self.term.weights, 0.0).sum(-1)
        return weighted[self.copies.rows]

    def rule_for(self, scalars: Scalars) -> Rule:
        """The factor's rule, as fine as these scalars need it."""
        factor = self.term.factor
        assert factor.rule is not None
        return factor.rule.at_spreads(factor.spreads, scalars.spreads())


# -------------------------------------------------------------------------------- from factors


def terms_of(data: Data, factors: Mapping[str, Factor]) -> list[Term]:
    """The terms of the data's sites.

    :param factors: by site.
    :raises SampledFactorError: for a factor at draws of q.
    """
    return [_term(s, data, factors[s.name]) for s in data.sites]


def _term(site: TracedSite, data: Data, factor: Factor) -> Term:
    if isinstance(factor, ExactFactor):
        node = site.log_prob
        assert isinstance(node, LiftedTensor)
        assert node.poly is not None
        return ExactTerm(site, data, node.poly)
    if isinstance(factor, ConstantFactor):
        return ExactTerm(site, data, polynomial(site.log_prob.detach()))
    if isinstance(factor, QuadratureFactor):
        term = QuadratureTerm(site, data, factor)
        if term.keeps_data_apart:
            return term
        raise _not_apart(site.name, "its scalars are not those of single data")
    raise _not_apart(site.name, f"it is at draws of q ({factor.reason})")


def _not_apart(name: str, why: str) -> errors.SampledFactorError:
    return errors.SampledFactorError(
        f"the data of site {name!r} are not taken apart: {why}. Mend: the spelling that keeps the "
        "factor deterministic, see blr.explain(); or pyro_blr.to_arviz(blr, *args) and "
        "arviz_stats.loo."
    )
