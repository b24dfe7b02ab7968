# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Factors at draws of q: the recorded programs of all of them, run together on every draw."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..estimators import bonnet_price, score_function
from ..lifting.blocks import Block
from ..lifting.tensor import replay
from .draws import Drawn, Draws, has_central_leaves, variable
from .factors import Factor, MomentsMap, Summed, Value


@dataclass(eq=False)
class SampledFactor(Factor):
    """Anything without a closed form or a rule: the recorded program at draws of q."""

    summed: Summed
    #: Operations with jumps, of which the derivative along a draw sees nothing.
    jumps: tuple[str, ...] = ()
    #: Whether second derivatives along a draw miss a part.
    has_kinks: bool = False

    tier = "sampled"

    def evaluate(self, moments: MomentsMap, draws: Draws | None, touching: Block | None) -> Value:
        assert draws is not None
        estimated = estimate([self], moments, draws, touching)
        return estimated.value, estimated.magnitude


@dataclass(frozen=True, eq=False)
class Estimate:
    """The sum of some sampled factors' expectations, in nats.

    :param value: differentiable in the moments' leaves (see :mod:`..estimators`).
    :param magnitude: the mean of the sums of absolute terms.
    :param each: the sum of the factors at each draw, without a graph. # shape: (draws,)
    """

    value: Tensor
    magnitude: Tensor
    each: Tensor


def estimate(
    factors: Sequence[SampledFactor],
    moments: MomentsMap,
    draws: Draws,
    touching: Block | None = None,
) -> Estimate:
    """The expectation of sampled factors.

    Gaussians get Bonnet's and Price's derivatives; structured ones and other families those along
    their draws (implicit reparameterisation, arXiv 1805.08498); factors with jumps the score
    function's. Where natural parameters themselves require a gradient, draws of Gaussians are
    differentiated too, so that there are second derivatives.

    :param touching: the one block whose message is wanted, or None for all.
    """
    jumping = [f for f in factors if f.jumps]
    parts = []
    for kinked in (False, True):
        own = [f for f in factors if not f.jumps and f.has_kinks == kinked]
        if own:
            parts.append(_continuous(own, moments, draws, touching, kinked))
    if jumping:
        parts.append(_jumping(jumping, moments, draws))
    return Estimate(
        torch.stack([p.value for p in parts]).sum(),
        torch.stack([p.magnitude for p in parts]).sum(),
        torch.stack([p.each for p in parts]).sum(0),
    )


def _continuous(
    factors: Sequence[SampledFactor],
    moments: MomentsMap,
    draws: Draws,
    touching: Block | None,
    kinked: bool,
) -> Estimate:
    """Bonnet's and Price's derivatives, the Hessian in Stein's form where there are kinks."""
    blocks = frozenset(b for f in factors for b in f.blocks)
    own = {b: m for b, m in moments.items() if b in blocks}
    drawn = draws.of_blocks(moments, blocks)
    variables = []
    if torch.is_grad_enabled() and not any(
        n.requires_grad for m in own.values() for n in m.natural
    ):
        for block, m in own.items():
            if has_central_leaves(m):
                drawn[block] = drawn[block].detach()
                if touching in (None, block):
                    drawn[block].requires_grad_()
                    variables.append(variable(block, m, drawn[block]))
    values, sizes = _at_draws(factors, draws, drawn)
    value = bonnet_price(values, variables, kinked) if variables else values.mean()
    return Estimate(value, sizes.mean(), values.detach())


def _jumping(factors: Sequence[SampledFactor], moments: MomentsMap, draws: Draws) -> Estimate:
    blocks = frozenset(b for f in factors for b in f.blocks)
    drawn = {b: d.detach() for b, d in draws.of_blocks(moments, blocks).items()}
    values, sizes = _at_draws(factors, draws, drawn)
    log_q = [moments[b].log_prob(d).reshape(draws.count, -1).sum(-1) for b, d in drawn.items()]
    value = score_function(values, torch.stack(log_q).sum(0))
    return Estimate(value, sizes.mean(), values.detach())


def _at_draws(
    factors: Sequence[SampledFactor], draws: Draws, drawn: Drawn
) -> tuple[Tensor, Tensor]:
    """The sum of the factors at each draw, and of their absolute terms. # shape: (draws,)"""
    values = draws.by_site(drawn)

    def at_one(values: Mapping[str, Tensor]) -> Value:
        sites = {s: values[s.name] for f in factors for s in f.summed.node.sites}
        results = replay([f.summed.node for f in factors], sites)
        parts = [f.summed(r) for f, r in zip(factors, results, strict=True)]
        return torch.stack([p[0] for p in parts]).sum(), torch.stack([p[1] for p in parts]).sum()

    return draws.mapped(at_one, values)
