# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Factors that discrete latents join: expected log factors, the latents summed out of them."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..lifting.axes import all_axes
from ..lifting.blocks import Block
from ..lifting.fused import FusedPlan
from ..lifting.moments import Moments
from ..lifting.plan import Plan
from ..lifting.statistics import sum_of_coefficients
from .draws import Draws
from .factors import Coefficients, Factor, MomentsMap, QuadratureFactor, Value


@dataclass(frozen=True, eq=False)
class Role:
    """How a log factor counts in a sum over discrete latents.

    :param mask: where it counts; None for everywhere.
    :param times: its own scale over that of the sum.
    :param states: the number of joint values of discrete latents along its dims.
    :param elsewhere: the value where it does not count.
    :param choice: the dim along which the values of one discrete latent run, in one part of each.
    :param is_prior: whether it is of discrete latents alone, and of nothing that is observed.
    :param repeated: dims of plates along which one element stands for all, as another part that
        it is multiplied with runs along them.
    """

    mask: Tensor | None = None
    times: Any = 1.0
    states: int = 1
    elsewhere: float = 0.0
    choice: int | None = None
    is_prior: bool = False
    repeated: tuple[int, ...] = ()


@dataclass(eq=False)
class Part(ABC):
    """One site's log factor, along the dims of its plates and of discrete latents.

    :param name: the site.
    :param blocks: the blocks of q that it depends on.
    :param role: how it counts.
    """

    name: str
    blocks: frozenset[Block]
    role: Role

    tier = "exact"
    reason = ""

    @property
    def error(self) -> float:
        """The quadrature's error in nats an element; 0 where there is none."""
        return 0.0

    @property
    def has_rows(self) -> bool:
        """Whether it may depend on latents along its own plates."""
        return bool(self.blocks)

    def repeats(self, dim: int) -> bool:
        """Whether the elements along a dim are the same whatever q is."""
        return False

    def is_by_row(self, block: Block, choices: Collection[int]) -> bool:
        """Whether it takes of a block what stands at its own place along a plate.

        :param choices: the dims of discrete latents, along which values may select elements too.
        """
        return False

    @abstractmethod
    def raw(self, moments: MomentsMap) -> Tensor:
        """The expected log density, before mask and scale."""

    def expected(self, moments: MomentsMap) -> Tensor:
        """The expected log factor."""
        value = self.raw(moments).double()
        value = value if is_one(self.role.times) else value * self.role.times
        if self.role.mask is not None:
            return torch.where(self.role.mask, value, self.role.elsewhere)
        for dim in self.role.repeated:
            value = value.narrow(dim, 0, 1)
        return value

    def is_linear_in(self, block: Block) -> bool:
        """Whether each element is linear in a block's mean parameters, given the others."""
        return block not in self.blocks

    def coefficients(
        self, moments: MomentsMap, block: Block, weights: Tensor
    ) -> Coefficients | None:
        """The coefficients of the mean parameters in the weighted sum, or None."""
        return None

    def counted(self, weights: Tensor) -> Tensor:
        """Weights of the log factor as weights of the expected log density."""
        weights = weights if is_one(self.role.times) else weights * self.role.times
        return weights if self.role.mask is None else torch.where(self.role.mask, weights, 0.0)


@dataclass(eq=False, kw_only=True)
class ExactPart(Part):
    """A compiled polynomial with a value for each element."""

    plan: Plan
    free: tuple[Tensor, ...]
    fused: FusedPlan

    def repeats(self, dim: int) -> bool:
        return len(self.plan.dims) < -dim or self.plan.repeated[dim]

    @property
    def has_rows(self) -> bool:
        dims = self.plan.dims
        own = None if self.role.choice is None else dims[len(dims) + self.role.choice]
        stats = [s for product in self.plan.products for s in product.stats]
        return any(a in dims and a is not own for s in stats for a in all_axes(s.where))

    def is_by_row(self, block: Block, choices: Collection[int]) -> bool:
        dims = self.plan.dims
        rows = {a for d, a in enumerate(dims, -len(dims)) if a is not None and d not in choices}
        stats = [s for product in self.plan.products for s in product.stats if block in s.blocks]
        return all(not rows.isdisjoint(all_axes(s.where)) for s in stats)

    def raw(self, moments: MomentsMap) -> Tensor:
        return self.fused.values(moments, self.free)

    def is_linear_in(self, block: Block) -> bool:
        return self.plan.is_linear_in(block)

    def coefficients(
        self, moments: MomentsMap, block: Block, weights: Tensor
    ) -> Coefficients | None:
        return self.fused.coefficients(moments, self.free, block, self.counted(weights))


@dataclass(eq=False, kw_only=True)
class QuadraturePart(Part):
    """Expectations of a function of one or two Gaussian scalars for each element."""

    factor: QuadratureFactor

    tier = "quadrature"

    @property
    def error(self) -> float:
        return self.factor.error

    def raw(self, moments: MomentsMap) -> Tensor:
        return self.factor.expected(moments)


@dataclass(eq=False, kw_only=True)
class ConstantPart(Part):
    """A log density without latents of q; it may depend on a ``pyro.param``."""

    value: Tensor

    def raw(self, moments: MomentsMap) -> Tensor:
        return self.value


def is_one(times: Any) -> bool:
    """Whether a scale is the number 1."""
    return isinstance(times, int | float) and times == 1


#: From the log factors to the log of their sum over discrete latents.
Sum = Callable[..., Tensor]


@dataclass(eq=False)
class EliminatedFactor(Factor):
    """``log sum_z exp E_q[log p(x, z | latents)]``: discrete latents at their own optimum.

    This is the bound of variational Bayes EM with q(z) put in (Attias 2000; Beal 2003): convex in
    each block's mean parameters where the parts are linear in them, so that the step to the message
    at rho = 1 never lowers the ELBO. Its gradient weighs each element's message by the posterior of
    its discrete latents: the E-step, or the forward-backward pass, is the backward pass.

    A Gaussian chain's states are integrated out in the same way: its parts are coefficients of a
    quadratic form in them, in which the log of the integral is convex, and their weights its
    moments, of either sign.

    :param parts: the log factors, or the coefficients.
    :param sum_out: sums the latents out of them.
    :param latents: the names of the discrete latents; none for Gaussian states.
    """

    parts: Sequence[Part]
    sum_out: Sum
    latents: tuple[str, ...]
    #: The same factor at draws of q, for a reason.
    at_draws: Callable[[str], Factor]
    _values: dict[int, tuple[tuple[Moments, ...], Tensor]] = field(default_factory=dict)
    _summed: "tuple[tuple[Tensor, ...], Summed] | None" = None
    #: The posterior that is held fixed while blocks move in turn.
    held: "Held | None" = None

    @property
    def tier(self) -> str:  # type: ignore[override]
        """The lowest of its parts' tiers."""
        return "quadrature" if any(p.tier == "quadrature" for p in self.parts) else "exact"

    @property
    def error(self) -> float:  # type: ignore[override]
        """The largest error of its parts."""
        return max((p.error for p in self.parts), default=0.0)

    @cached_property
    def proportions(self) -> frozenset[Block]:
        """The blocks that are here as the proportions of discrete latents, row by row, and not
        otherwise: those of the topics of a document, not those of all rows of a mixture.
        """
        choices = {p.role.choice for p in self.parts if p.role.choice is not None}
        by_row = [
            {b for b in p.blocks if p.is_by_row(b, choices)}
            if p.role.is_prior and p.role.choice is not None
            else set()
            for p in self.parts
        ]
        others = [p.blocks - own for p, own in zip(self.parts, by_row, strict=True)]
        return frozenset(set().union(*by_row) - set().union(*others))

    def expected(self, moments: MomentsMap) -> tuple[Tensor, ...]:
        """The expected log factors; those whose blocks have not moved are taken again."""
        return tuple(self._expected(i, part, moments) for i, part in enumerate(self.parts))

    def _expected(self, i: int, part: Part, moments: MomentsMap) -> Tensor:
        if torch.is_grad_enabled():
            return part.expected(moments)
        own = tuple(moments[b] for b in part.blocks)
        known = self._values.get(i)
        same = known is not None and all(a is b for a, b in zip(known[0], own, strict=True))
        if known is None or not same:
            known = (own, part.expected(moments))
            self._values[i] = known
        return known[1]

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        values = self.expected(moments)
        if self.held is not None:
            total = self.held.bound(values)
        elif torch.is_grad_enabled():
            total = self.sum_out(*values)
        else:
            total = self._sum(values).total
        return total, lambda: self._magnitude(total.detach(), values)

    def _magnitude(self, total: Tensor, values: Sequence[Tensor]) -> Tensor:
        """What bounds the rounding error: the size of the log factors that take part.

        Each is a sum of a few terms that cancel, which are about as large as the log factors of
        values that are far off; of the values of a latent about one takes part. What cannot be, at
        -inf, takes no part.
        """
        if self.latents:
            sized = [
                (p, torch.where(v.isinf(), 0.0, v.detach()))
                for p, v in zip(self.parts, values, strict=True)
            ]
            sizes = [v.abs().sum() / p.role.states for p, v in sized]
        else:
            weights = self._posterior(values)
            sizes = [(w * v.detach()).abs().sum() for w, v in zip(weights, values, strict=True)]
        return torch.stack([total.abs(), *sizes]).sum()

    def weights(self, moments: MomentsMap) -> list[Tensor]:
        """The posterior of the discrete latents, as the weight of each element of each part."""
        with torch.no_grad():
            return self._posterior(self.expected(moments))

    def _posterior(self, values: Sequence[Tensor]) -> list[Tensor]:
        if self.held is not None:
            return list(self.held.weights)
        return self._sum(tuple(v.detach() if v.requires_grad else v for v in values)).weights

    def _sum(self, values: tuple[Tensor, ...]) -> "Summed":
        """The sum and its gradient; of the same log factors they are taken again."""
        known = self._summed
        if known is None or any(a is not b for a, b in zip(known[0], values, strict=True)):
            known = (values, summed(self.sum_out, values))
            self._summed = known
        return known[1]

    def hold(self, moments: MomentsMap) -> None:
        """Hold the posterior of the discrete latents until it is released: the E-step.

        Until then the factor is its bound at that posterior, which is linear in the log factors,
        equal to it here and below it elsewhere. So blocks may move in turn, each to its optimum.
        """
        if self.held is None:
            with torch.no_grad():
                values = self.expected(moments)
                found = self._sum(values)
            self.held = Held(
                found.weights, lambda: found.total - weighted_sum(found.weights, values)
            )

    def is_conjugate_in(self, block: Block) -> bool:
        return all(p.is_linear_in(block) for p in self.parts)

    def coefficients(self, moments: MomentsMap, block: Block) -> Coefficients | None:
        return sum_of_coefficients(
            part.coefficients(moments, block, weights)
            for part, weights in zip(self.parts, self.weights(moments), strict=True)
            if block in part.blocks
        )


@dataclass(frozen=True, eq=False)
class Summed:
    """The log of a sum over discrete latents, and its gradient in the log factors."""

    total: Tensor
    weights: list[Tensor]


@dataclass(frozen=True, eq=False)
class Held:
    """A posterior of the discrete latents.

    :param weights: of each element of each log factor.
    :param entropy_of: its entropy in nats, or any constant; conjugate updates never ask for it.
    """

    weights: Sequence[Tensor]
    entropy_of: Callable[[], Tensor]

    @cached_property
    def entropy(self) -> Tensor:
        """Computed when it is first asked for."""
        return self.entropy_of()

    def bound(self, values: Sequence[Tensor]) -> Tensor:
        """The expected log factors under it, and its entropy."""
        return weighted_sum(self.weights, values) + self.entropy


def weighted_sum(weights: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
    """The expectation of the sum of log factors; what has no weight may be -inf."""
    terms = [torch.where(w != 0, w * v, 0.0).sum() for w, v in zip(weights, values, strict=True)]
    return torch.stack(terms).sum()


def summed(sum_out: Sum, values: Sequence[Tensor]) -> Summed:
    """A sum over discrete latents, and the posterior weight of each element of its log factors."""
    with torch.enable_grad():
        leaves = [v.detach().requires_grad_() for v in values]
        total = sum_out(*leaves)
        found = torch.autograd.grad(total, leaves, allow_unused=True)
    weights = [torch.zeros_like(v) if g is None else g for v, g in zip(values, found, strict=True)]
    return Summed(total.detach(), weights)
