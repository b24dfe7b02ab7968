# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A factor of the model and its expectation, in closed form or by quadrature."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..lifting import host, quadrature
from ..lifting.blocks import Block
from ..lifting.laws import JointPlan
from ..lifting.moments import Moments
from ..lifting.plan import Plan
from ..lifting.predictor import Predictor
from ..lifting.scalars import Scalars, Spreads
from ..lifting.statistics import Statistic
from ..lifting.tensor import LiftedTensor, replay
from .draws import Draws

MomentsMap = Mapping[Block, Moments]
Coefficients = dict[Statistic, Tensor]
#: An expectation, and the magnitude that bounds its rounding error (or how to compute that).
Value = tuple[Tensor, Tensor | Callable[[], Tensor]]


@dataclass(eq=False)
class Factor(ABC):
    """One site's term of E_q[log p(x, z)], in nats.

    :param name: the site.
    :param blocks: the blocks of q that it depends on.
    :param reason: why it is not on a better tier; empty for the exact one.
    """

    name: str
    blocks: frozenset[Block]
    reason: str

    tier = "exact"
    #: The quadrature's error in nats (per element); 0 where there is none.
    error = 0.0

    @abstractmethod
    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        """The expectation, or an estimate, and its magnitude.

        :param touching: terms that do not depend on this block may be left out.
        """

    def is_linear_in(self, block: Block) -> bool:
        """Whether it is linear in a block's mean parameters, given the others."""
        return block not in self.blocks

    def is_conjugate_in(self, block: Block) -> bool:
        """Whether the message at the entry is the exact coordinate update.

        That is so where the factor is linear in the block, and where it is convex with a linear
        bound from below (discrete latents at their own optimum): the step never falls.
        """
        return self.is_linear_in(block)

    def couples(self, block: Block) -> bool:
        """Whether it is known to have a product of two elements of a block."""
        return False

    def coefficients(self, moments: MomentsMap, block: Block) -> Coefficients | None:
        """The message to a block in which it is conjugate, without differentiation, or None."""
        return None


@dataclass(eq=False)
class ExactFactor(Factor):
    """A compiled polynomial."""

    plan: Plan
    free: tuple[Tensor, ...]

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        return self.plan.evaluate(moments, self.free, touching)

    def is_linear_in(self, block: Block) -> bool:
        return self.plan.is_linear_in(block)

    def couples(self, block: Block) -> bool:
        return self.plan.couples(block)

    def coefficients(self, moments: MomentsMap, block: Block) -> Coefficients | None:
        return self.plan.coefficients(moments, self.free, block)


@dataclass(eq=False)
class ConstantFactor(Factor):
    """A log density without latents: a number, that may depend on a ``pyro.param``."""

    value: Tensor

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        value = self.value if touching is None else torch.zeros_like(self.value)
        return value, value.detach().abs()


class Summed:
    """From a log density along the batch dims to the factor's number: mask, sum, scale."""

    def __init__(self, node: LiftedTensor, mask: Any, scale: Any) -> None:
        self.node, self.mask, self.scale = node, mask, scale

    def __call__(self, log_prob: Tensor) -> tuple[Tensor, Tensor]:
        log_prob = log_prob.double() * self.scale
        if self.mask is False:
            log_prob = torch.zeros_like(log_prob)
        elif isinstance(self.mask, Tensor):
            mask, log_prob = torch.broadcast_tensors(self.mask, log_prob)
            log_prob = torch.where(mask, log_prob, 0.0)
        return log_prob.sum(), log_prob.detach().abs().sum()


#: A rule of this many times the calibrated nodes is not taken over: the scalars became so wide that
#: choosing the rule anew costs less.
STALE = 2.0


#: In standard deviations, how far each scalar may move from where a rule was chosen, and by which
#: share its standard deviation may change: the rule has a hundredth of the tolerance in reserve.
NEARBY = 0.2


@dataclass(frozen=True, eq=False)
class KeptRule:
    """A rule and where it was chosen."""

    rule: quadrature.Rule
    error: float
    scalars: Scalars

    def serves(self, scalars: Scalars) -> bool:
        """Whether the scalars are nearby."""
        old = self.scalars
        if [m.shape for m in old.means] != [m.shape for m in scalars.means]:
            return False
        pairs = zip((*old.means, *old.root.own), (*scalars.means, *scalars.root.own), strict=True)
        spread = (*old.root.own, *old.root.own)
        moved = [
            ((new - now).abs() > NEARBY * s).any()
            for (now, new), s in zip(pairs, spread, strict=True)
        ]
        return not host.truth(torch.stack(moved).any())


@dataclass(eq=False)
class QuadratureFactor(Factor):
    """An elementwise function of one or two Gaussian scalars.

    :param joint: the plan of the scalars' means, variances and covariance.
    :param free: its free constants, for each scalar.
    """

    predictor: Predictor
    joint: JointPlan
    free: tuple[tuple[Tensor, ...], ...]
    summed: Summed
    tolerance: float = quadrature.QUAD_TOL
    rule: quadrature.Rule | None = None
    #: How wide the scalars were where the rule was chosen.
    spreads: Spreads = ()
    #: Why no rule is good enough, if so.
    refusal: str = ""

    tier = "quadrature"

    @property
    def integrand(self) -> quadrature.Integrand:
        """The elementwise log density as a function of the scalars."""
        return quadrature.Integrand(self._function, self.predictor.density.numel())

    def _function(self, *nodes: Tensor) -> Tensor:
        """The elementwise log density at scalars with a dim of nodes in front."""
        density = self.predictor.density
        if self.predictor.rearranges:
            return torch.vmap(self._at)(*nodes)
        result = self._replayed(*(_padded(n, density.dim()) for n in nodes))
        return result.expand(nodes[0].shape[0], *density.shape)

    def _at(self, *values: Tensor) -> Tensor:
        """The elementwise log density at one value of the scalars."""
        return self._replayed(*values).expand(self.predictor.density.shape)

    def _replayed(self, *values: Tensor) -> Tensor:
        scalars = zip(self.predictor.scalars, values, strict=True)
        given = {id(n): value for nodes, value in scalars for n in nodes}
        (result,) = replay([self.predictor.program], given)
        return result  # type: ignore[no-any-return]

    def scalars(self, moments: MomentsMap) -> Scalars:
        """The scalars' joint law."""
        return self.joint.evaluate(moments, self.free)

    def calibrate(
        self, moments: MomentsMap, tolerance: float, kept: "dict[str, KeptRule] | None" = None
    ) -> bool:
        """Choose the rule at these moments; False if none is good enough.

        :param kept: rules of the same factors a short way from here, by site; it gets this one's.
        """
        self.tolerance = tolerance
        with torch.no_grad():
            scalars = self.scalars(moments)
        known = None if kept is None else kept.get(self.name)
        if known is not None and known.serves(scalars):
            self.rule, self.error, self.spreads = known.rule, known.error, known.scalars.spreads()
            return True
        found = quadrature.calibrate(self.integrand, scalars, tolerance)
        self._take(found, scalars)
        self.refusal = found.refusal
        if kept is not None and not found.refusal:
            kept[self.name] = KeptRule(found.rule, found.error, scalars)
        return not found.refusal

    def _take(self, found: quadrature.Calibration, scalars: Scalars) -> None:
        self.rule, self.error, self.spreads = found.rule, found.error, scalars.spreads()

    def _rule_for(self, scalars: Scalars) -> quadrature.Rule:
        """The rule at scalars that may have become wider since it was chosen."""
        assert self.rule is not None
        rule = self.rule.at_spreads(self.spreads, scalars.spreads())
        if rule.size <= STALE * self.rule.size:
            return rule
        found = quadrature.calibrate(self.integrand, scalars, self.tolerance)
        if not found.refusal:
            self._take(found, scalars)
            return found.rule
        # The next step's calibration will refuse the factor; a trial step is judged by the best.
        fits = quadrature.within_limits(rule, self.integrand.elements)
        return rule if fits else found.rule

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        return self.summed(self.expected(moments))

    def expected(self, moments: MomentsMap) -> Tensor:
        """The expected log density along the site's dims, before mask and sum."""
        scalars = self.scalars(moments)
        expected = self.integrand.expectation(scalars, self._rule_for(scalars))
        density, node = self.predictor.density, self.summed.node
        if node is not density:
            (expected,) = replay([node], {id(density): expected})
        return expected


def _padded(nodes: Tensor, ndim: int) -> Tensor:
    """Nodes whose dims behind the first broadcast against a tensor of ``ndim`` dims."""
    missing = ndim - (nodes.dim() - 1)
    return nodes.reshape(nodes.shape[0], *(1,) * missing, *nodes.shape[1:])
