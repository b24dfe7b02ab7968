# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Factors at draws of q: the recorded programs of all of them, run together on every draw."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..estimators import (
    Curvature,
    GaussNewton,
    MeanDerivatives,
    Outputs,
    Variable,
    bonnet_price,
    exact_hessian,
    probed_hessian,
    score_function,
    stein_hessian,
)
from ..lifting.blocks import Block
from ..lifting.outputs import Output, is_network
from ..lifting.tensor import program, replay
from .at_prior import NoiseBlock
from .curvature import EXACT_HESSIAN, GAUSS_NEWTON, PATH, PROBES, SCORE, STEIN, Way
from .draws import Drawn, Draws, has_central_leaves, variable
from .factors import Factor, MomentsMap, Summed, Value

#: Numbers of programs at draws whose graph is held at once (1 GB); draws beyond are taken in parts.
HELD_NUMBERS = 2**27


@dataclass(eq=False)
class SampledFactor(Factor):
    """Anything without a closed form or a rule: the recorded program at draws of q."""

    summed: Summed
    #: Operations with jumps, of which the derivative along a draw sees nothing.
    jumps: tuple[str, ...] = ()
    #: How the message to each block is estimated.
    ways: Mapping[Block, Way] = field(default_factory=dict)

    tier = "sampled"
    #: There is no bound of it: it depends on the draws.
    error = math.nan

    @property
    def is_in_parts(self) -> bool:
        """Whether draws whose graph is too large can be taken in parts."""
        along = (PATH, SCORE)
        return not self.jumps and all(way.name not in along for way in self.ways.values())

    @cached_property
    def numbers(self) -> int:
        """The numbers that its program holds for one draw."""
        return sum(node.numel() for node in program([self.summed.node]))

    @cached_property
    def operations(self) -> int:
        """The operations of its program."""
        return len(program([self.summed.node]))

    @cached_property
    def is_network(self) -> bool:
        """Whether its latents are weights of a network."""
        return is_network(self.summed.node)

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
    parts = [
        _continuous(own, ways, moments, draws, touching)
        for own, ways in _alike([f for f in factors if not f.jumps])
    ]
    if jumping:
        parts.append(_jumping(jumping, moments, draws))
    return Estimate(
        torch.stack([p.value for p in parts]).sum(),
        torch.stack([p.magnitude for p in parts]).sum(),
        torch.stack([p.each for p in parts]).sum(0),
    )


Ways = dict[Block, list[Way]]


def _alike(factors: Sequence[SampledFactor]) -> list[tuple[list[SampledFactor], Ways]]:
    """Groups of factors that estimate their messages to each block in the same way."""
    groups: list[tuple[list[SampledFactor], Ways]] = []
    for factor in factors:
        fits = (g for g in groups if _agree(g[1], factor))
        group = next(fits, None)
        if group is None:
            group = ([], {})
            groups.append(group)
        group[0].append(factor)
        for block, way in factor.ways.items():
            group[1].setdefault(block, []).append(way)
    return groups


def _agree(ways: Ways, factor: SampledFactor) -> bool:
    """Whether a factor's estimators are those of a group, on the blocks of both."""
    return all(ways[b][0].name == way.name for b, way in factor.ways.items() if b in ways)


def _continuous(
    factors: Sequence[SampledFactor],
    ways: Ways,
    moments: MomentsMap,
    draws: Draws,
    touching: Block | None,
) -> Estimate:
    """Bonnet's and Price's derivatives; for other blocks those along their draws."""
    own = {b: m for b, m in moments.items() if b in ways}
    drawn = draws.of_blocks(moments, ways)
    drawn |= {b: d.detach() for b, d in drawn.items() if isinstance(b, NoiseBlock)}
    variables: dict[Block, Variable] = {}
    if torch.is_grad_enabled() and not any(
        n.requires_grad for m in own.values() for n in m.natural
    ):
        for block, m in own.items():
            if has_central_leaves(m) and not isinstance(block, NoiseBlock):
                drawn[block] = drawn[block].detach()
                if touching in (None, block):
                    drawn[block].requires_grad_()
                    variables[block] = variable(block, m, drawn[block], draws.seed)
    is_large = draws.count * _numbers(factors) > HELD_NUMBERS
    if is_large and _are_of_draws_alone(factors, draws, drawn, variables):
        return _in_parts(factors, ways, draws, drawn, variables)
    values, sizes, curvatures = _with_curvatures(factors, ways, draws, drawn, variables)
    value = bonnet_price(values, tuple(variables.values()), curvatures)
    return Estimate(value, sizes.mean(), values.detach())


def _with_curvatures(
    factors: Sequence[SampledFactor],
    ways: Ways,
    draws: Draws,
    drawn: Drawn,
    variables: Mapping[Block, Variable],
) -> tuple[Tensor, Tensor, list[Curvature]]:
    """The factors at draws, their absolute terms, and the estimator of each variable's Hessian."""
    cuts = {id(o.node): o for b in variables for w in ways[b] if (o := w.output) is not None}
    values, sizes, outputs = _at_draws(factors, draws, drawn, tuple(cuts.values()))
    found = dict(zip(cuts, outputs, strict=True))
    return values, sizes, [_curvature(ways[b], values, found) for b in variables]


def _are_of_draws_alone(
    factors: Sequence[SampledFactor],
    draws: Draws,
    drawn: Drawn,
    variables: Mapping[Block, Variable],
) -> bool:
    """Whether nothing that requires a gradient enters the factors but draws of the variables."""
    one = {b: d[:1].detach() if b in variables else d[:1] for b, d in drawn.items()}
    return bool(variables) and not _at_draws(factors, draws, one)[0].requires_grad


def _in_parts(
    factors: Sequence[SampledFactor],
    ways: Ways,
    draws: Draws,
    drawn: Drawn,
    variables: Mapping[Block, Variable],
) -> Estimate:
    """The same from parts of the draws, of which one at a time holds its graph."""
    size = max(1, HELD_NUMBERS // _numbers(factors))
    means = MeanDerivatives(tuple(variables.values()))
    values, sizes = [], []
    for first in range(0, draws.count, size):
        part = {b: d.detach()[first : first + size] for b, d in drawn.items()}
        own = {b: replace(v, draws=part[b].requires_grad_()) for b, v in variables.items()}
        value, magnitude, curvatures = _with_curvatures(factors, ways, draws, part, own)
        means.add(value, tuple(own.values()), curvatures)
        values.append(value.detach())
        sizes.append(magnitude.detach())
    each = torch.cat(values)
    return Estimate(means.estimate(each), torch.cat(sizes).mean(), each)


def _curvature(ways: Sequence[Way], values: Tensor, found: Mapping[int, Outputs]) -> Curvature:
    """The estimator of a block's Hessian, of factors that agree on it."""
    if ways[0].name == GAUSS_NEWTON:
        cuts = dict.fromkeys(id(w.output.node) for w in ways if w.output is not None)
        return GaussNewton(values, [found[cut] for cut in cuts])
    return CURVATURES[ways[0].name]


CURVATURES: dict[str, Curvature] = {
    EXACT_HESSIAN: exact_hessian,
    PROBES: probed_hessian,
    STEIN: stein_hessian,
}


def _jumping(factors: Sequence[SampledFactor], moments: MomentsMap, draws: Draws) -> Estimate:
    blocks = frozenset(b for f in factors for b in f.blocks)
    drawn = {b: d.detach() for b, d in draws.of_blocks(moments, blocks).items()}
    values, sizes, _ = _at_draws(factors, draws, drawn)
    log_q = [moments[b].log_prob(d).reshape(draws.count, -1).sum(-1) for b, d in drawn.items()]
    value = score_function(values, torch.stack(log_q).sum(0))
    return Estimate(value, sizes.mean(), values.detach())


def _at_draws(
    factors: Sequence[SampledFactor], draws: Draws, drawn: Drawn, cuts: Sequence[Output] = ()
) -> tuple[Tensor, Tensor, list[Outputs]]:
    """The sum of the factors at each draw, of their absolute terms, and what they are made of.

    :param cuts: outputs of networks, from which the factors go on.
    :return: # shape: (draws,), (draws,); each of the outputs (draws, *output)
    """
    values = draws.by_site(drawn)

    def before(values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        return tuple(replay([c.node for c in cuts], _by_node(factors, values)))

    def after(values: Mapping[str, Tensor], given: Sequence[Tensor]) -> tuple[Tensor, ...]:
        known = {id(c.node): g for c, g in zip(cuts, given, strict=True)}
        sites = _by_node(factors, values)
        results = replay([f.summed.node for f in factors], {**sites, **known})
        sums = [f.summed(r) for f, r in zip(factors, results, strict=True)]
        return torch.stack([s for s, _ in sums]).sum(), torch.stack([m for _, m in sums]).sum()

    # Aliases: of two outputs one may be computed from the other, but no factor from both.
    numbers = _numbers(factors)
    given = [o.view_as(o) for o in draws.mapped(before, values, numbers=numbers)] if cuts else []
    total, sizes = draws.mapped(after, values, given, numbers=numbers)
    outputs = [Outputs(g, c.is_vector) for g, c in zip(given, cuts, strict=True)]
    return total, sizes, outputs


def values_at(factors: Sequence[SampledFactor], draws: Draws, drawn: Drawn) -> Tensor:
    """The sum of the factors at each draw, differentiable in the draws. # shape: (draws,)"""
    return _at_draws(factors, draws, drawn)[0]


def _numbers(factors: Sequence[SampledFactor]) -> int:
    """The numbers that the programs hold for one draw."""
    return sum(f.numbers for f in factors)


def _by_node(factors: Sequence[SampledFactor], values: Mapping[str, Tensor]) -> dict[Any, Tensor]:
    """The values of the leaves of the factors' programs."""
    return {s: values[s.name] for f in factors for s in f.summed.node.sites}
