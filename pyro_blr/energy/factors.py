# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A factor of the model and its expectation on one of three tiers: exact, quadrature, sampled."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..lifting import host, quadrature
from ..lifting.blocks import Block
from ..lifting.moments import Moments
from ..lifting.plan import Plan
from ..lifting.predictor import Predictor
from ..lifting.tensor import LiftedTensor, replay
from .draws import Draws

MomentsMap = Mapping[Block, Moments]
Value = tuple[Tensor, Tensor]


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
        """The expectation (or an estimate) and the magnitude that bounds its rounding error.

        :param touching: terms that do not depend on this block may be left out.
        """

    def is_linear_in(self, block: Block) -> bool:
        """Whether it is conjugate in a block: linear in its mean parameters, given the others."""
        return block not in self.blocks


@dataclass(eq=False)
class ExactFactor(Factor):
    """A compiled polynomial."""

    plan: Plan
    free: tuple[Tensor, ...]

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        return self.plan.evaluate(moments, self.free, touching)

    def is_linear_in(self, block: Block) -> bool:
        return self.plan.is_linear_in(block)


@dataclass(eq=False)
class ConstantFactor(Factor):
    """A log density without latents: a number, that may depend on a ``pyro.param``."""

    value: Tensor

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        value = self.value if touching is None else torch.zeros_like(self.value)
        return value, value.detach().abs()


class _Summed:
    """From a log density along the batch dims to the factor's number: mask, sum, scale."""

    def __init__(self, node: LiftedTensor, mask: Any, scale: Any) -> None:
        self.node, self.mask, self.scale = node, mask, scale

    def __call__(self, log_prob: Tensor) -> Value:
        log_prob = log_prob.double() * self.scale
        if self.mask is False:
            log_prob = torch.zeros_like(log_prob)
        elif isinstance(self.mask, Tensor):
            mask, log_prob = torch.broadcast_tensors(self.mask, log_prob)
            log_prob = torch.where(mask, log_prob, 0.0)
        return log_prob.sum(), log_prob.detach().abs().sum()


@dataclass(eq=False)
class QuadratureFactor(Factor):
    """An elementwise function of one Gaussian scalar.

    :param mean: the plan of the predictor's mean. # shape: that of the predictor
    :param variance: the plan of its variance.
    """

    predictor: Predictor
    mean: Plan
    variance: Plan
    free: tuple[Tensor, ...]
    summed: _Summed
    rule: quadrature.Rule | None = None
    #: The widest predictor's standard deviation where the rule was chosen.
    spread: float = 0.0

    tier = "quadrature"

    def _function(self, nodes: Tensor) -> Tensor:
        """The elementwise log density at predictors with a dim of nodes in front."""
        density = self.predictor.density
        if self.predictor.rearranges:
            return torch.vmap(self._at)(nodes)
        own = nodes.dim() - 1
        padded = nodes.reshape(nodes.shape[0], *(1,) * (density.dim() - own), *nodes.shape[1:])
        values = {id(n): padded for n in self.predictor.nodes}
        (result,) = replay([density], values)
        return result.expand(nodes.shape[0], *density.shape)  # type: ignore[no-any-return]

    def _at(self, value: Tensor) -> Tensor:
        """The elementwise log density at one value of the predictor."""
        values = {id(n): value for n in self.predictor.nodes}
        (result,) = replay([self.predictor.density], values)
        return result.expand(self.predictor.density.shape)  # type: ignore[no-any-return]

    def marginal(self, moments: MomentsMap) -> tuple[Tensor, Tensor]:
        """The predictor's mean and variance."""
        mean, _ = self.mean.evaluate(moments, self.free)
        variance, _ = self.variance.evaluate(moments, self.free)
        return mean, variance.expand(mean.shape)

    def calibrate(self, moments: MomentsMap, tolerance: float) -> bool:
        """Choose the rule at these moments; False if none is good enough."""
        with torch.no_grad():
            mean, variance = self.marginal(moments)
            found = quadrature.calibrate(self._function, mean, variance, tolerance)
            self.spread = _widest(variance)
        self.error = found.error
        self.rule = found.rule
        return found.accepted

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        assert self.rule is not None
        mean, variance = self.marginal(moments)
        widest = _widest(variance.detach())
        rule = self.rule.at_spread(widest / self.spread) if self.spread > 0 else self.rule
        expected = quadrature.expectation(self._function, mean, variance, rule)
        density, node = self.predictor.density, self.summed.node
        if node is not density:
            (expected,) = replay([node], {id(density): expected})
        return self.summed(expected)


@dataclass(eq=False)
class SampledFactor(Factor):
    """Anything else: the recorded program at draws of q."""

    summed: _Summed
    #: Operations with jumps, whose part of the gradient draws do not see.
    jumps: tuple[str, ...] = ()

    tier = "sampled"

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        assert draws is not None
        total: Value | None = None
        for values in draws.particles(moments):
            (log_prob,) = replay([self.summed.node], values)
            value = self.summed(log_prob)
            total = value if total is None else (total[0] + value[0], total[1] + value[1])
        assert total is not None
        return total[0] / draws.count, total[1] / draws.count


def _widest(variance: Tensor) -> float:
    return host.number(variance.max().sqrt()) if variance.numel() else 0.0
