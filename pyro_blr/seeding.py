# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A start for latents that discrete latents tell apart, where q does not tell them apart yet.

With every component of a mixture at the same place the data say nothing of the assignments: that is
a saddle, on which coordinate steps stay for ever. So the assignments are drawn first: of a mixture
one row for each component (as k-means does, Forgy 1965), and where rows have latents of their own
or follow each other (topic models, chains) random ones for all rows. Some sweeps later the best of
a few is taken.

Of discrete latents that q itself holds (a factorised q) random values for all elements are drawn,
and are then kept decided for a while: soft ones would say so little that the other latents learnt
nothing of them, and q fell back to the saddle.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot, pad

from .energy.eliminated import EliminatedFactor, Held, Part, summed
from .families import Natural
from .lifting.blocks import Block
from .lifting.moments import Moments
from .objective import EnergyObjective
from .steps.cone import Safety
from .steps.sweep import SweepMemory, sweep

#: Assignments are what the data say of them to this much: below it, they say nothing.
BLIND = 1e-8

#: Sweeps with the assignments given: locations and scales that depend on each other both arrive.
GIVEN = 3

#: How many starts are tried, and by how many sweeps each before they are compared. A start that
#: loses a component is seen after a few; k-means' usual ten restarts, in the first step's time.
STARTS, SWEEPS = 8, 10

#: Elements of log factors in all starts together: a million rows of ten classes have one start.
MOST_ELEMENTS = 2**23

#: Standard deviation of the log-odds of random assignments: they are nearly hard.
DECIDED = 10.0


#: Sweeps with decided values of discrete latents that q holds, before q may be of two minds.
DECIDED_SWEEPS = 12


def is_blind(factor: EliminatedFactor, moments: Mapping[Block, Moments]) -> bool:
    """Whether the posterior of the discrete latents is their prior, whatever the data."""
    if factor.held is not None or not factor.latents or all(p.role.is_prior for p in factor.parts):
        return False
    with torch.no_grad():
        values = factor.expected(moments)
    prior = [
        v if p.role.is_prior else torch.zeros_like(v)
        for p, v in zip(factor.parts, values, strict=True)
    ]
    before, after = summed(factor.sum_out, prior).weights, factor.weights(moments)
    return all(
        bool((b - a).abs().max() < BLIND)
        for p, b, a in zip(factor.parts, before, after, strict=True)
        if p.role.choice is not None and b.numel()
    )


def seeded(objective: EnergyObjective, naturals: Mapping[Block, Natural]) -> dict[Block, Natural]:
    """The best of some starts from random assignments; natural parameters as they are where none
    is needed, or none is better.
    """
    moments = objective.energy.moments(naturals)
    factors = [f for f in objective.energy.factors if isinstance(f, EliminatedFactor)]
    blind = [f for f in factors if is_blind(f, moments)]
    start = dict(naturals)
    if not blind:
        return start
    best, highest = start, objective.value(start).elbo
    largest = max(v.numel() for f in blind for v in f.expected(moments))
    for _ in range(max(1, min(STARTS, MOST_ELEMENTS // largest))):
        found = _from_assignments(objective, start, blind, moments)
        elbo = objective.value(found).elbo
        if elbo > highest:
            best, highest = found, elbo
    return best


def _from_assignments(
    objective: EnergyObjective,
    start: Mapping[Block, Natural],
    blind: Sequence[EliminatedFactor],
    moments: Mapping[Block, Moments],
) -> dict[Block, Natural]:
    for factor in blind:
        weights = assignments(factor, moments)
        factor.held = Held(weights, partial(weights[0].new_zeros, ()))
    try:
        current = dict(start)
        for _ in range(GIVEN):
            current = _sweep(objective, current)
    finally:
        for factor in blind:
            factor.held = None
    for _ in range(SWEEPS):
        current = _sweep(objective, current)
    return current


def seeded_in_q(
    objective: EnergyObjective, naturals: Mapping[Block, Natural]
) -> dict[Block, Natural]:
    """The best of some starts from random values of the discrete latents that q holds; natural
    parameters as they are where the data tell its elements apart, or none is better.
    """
    start = dict(naturals)
    held = [b for b in objective.blocks if b.sites[0].is_discrete and b.batch_shape]
    if not held or not all(_tells_nothing(objective, start, b) for b in held):
        return start
    best, highest = start, objective.value(start).elbo
    elements = max(objective.energy.numel, max(prod(b.batch_shape) for b in held))
    count = max(1, min(STARTS, MOST_ELEMENTS // elements))
    for number in range(2 * count):
        drawn = {b: DECIDED * torch.randn_like(start[b][0]) for b in held}
        if number >= count:
            divisible = [b for b in held if len(b.sites[0].levels) > 2]
            if not divisible:
                break
            drawn = {b: best[b][0] for b in held}
            block = divisible[number % len(divisible)]
            drawn[block] = _merged_and_split(drawn[block])
        found = _from_decided(objective, {**start, **{b: (d,) for b, d in drawn.items()}}, held)
        elbo = objective.value(found).elbo
        if elbo > highest:
            best, highest = found, elbo
    return best


def _merged_and_split(odds: Tensor) -> Tensor:
    """Values decided anew: all elements with one get another, and half of those with a third one
    get the first. What random starts miss most is that two groups share a value.
    """
    free = odds.shape[-1]
    values = pad(odds, (0, 1)).argmax(-1)
    gone, other, divided = torch.randperm(free + 1, device=odds.device)[:3]
    half = torch.rand(values.shape, device=odds.device) < 0.5
    new = torch.where(values == gone, other, values)
    new = torch.where((values == divided) & half, gone, new)
    return _at(new, pad(odds, (0, 1)))


def _tells_nothing(
    objective: EnergyObjective, naturals: Mapping[Block, Natural], block: Block
) -> bool:
    """Whether all elements of a discrete block are alike in q, and have the same message."""
    return _are_alike(naturals[block]) and _are_alike(objective.messages(naturals, block)[block])


def _are_alike(natural: Natural) -> bool:
    if not natural[0].numel():
        return False
    rows = natural[0].reshape(-1, natural[0].shape[-1])
    far = (rows - rows[:1]).abs().max()
    return len(rows) > 1 and bool(far <= BLIND * (1.0 + rows.abs().max()))


class _Others:
    """An objective of which some blocks do not move."""

    def __init__(self, objective: EnergyObjective, held: Sequence[Block]) -> None:
        self._objective = objective
        self.blocks = tuple(b for b in objective.blocks if b not in held)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._objective, name)


def _from_decided(
    objective: EnergyObjective, start: Mapping[Block, Natural], held: Sequence[Block]
) -> dict[Block, Natural]:
    current = dict(start)
    others: Any = _Others(objective, held)
    for _ in range(DECIDED_SWEEPS):
        current = _sweep(others, current) if others.blocks else current
        for block in held:
            current[block] = _decided(objective.messages(current, block)[block])
    for _ in range(SWEEPS):
        current = _sweep(objective, current)
    return current


def _decided(message: Natural) -> Natural:
    """A message as nearly hard values, of which each is taken by its share of the elements.

    Log-odds are measured from their mean over the elements, so that no value takes all of them.
    """
    odds = pad(message[0], (0, 1))
    odds = odds - odds.mean(-1, keepdim=True)
    rows = max(range(odds.dim() - 1), key=lambda d: odds.shape[d])
    odds = odds - odds.mean(rows, keepdim=True)
    return (_at(odds.argmax(-1), odds),)


def _at(values: Tensor, odds: Tensor) -> Tensor:
    """Log-odds that are decided for some values.

    :param odds: of all values. # shape: (*batch, K)
    """
    decided = DECIDED * one_hot(values, odds.shape[-1]).to(odds.dtype)
    return decided[..., :-1] - decided[..., -1:]


def _sweep(objective: EnergyObjective, current: dict[Block, Natural]) -> dict[Block, Natural]:
    first = objective.messages(current, objective.blocks[0])
    entry = objective.value(current)
    return sweep(objective, current, first, entry, None, Safety(), SweepMemory())


def assignments(factor: EliminatedFactor, moments: Mapping[Block, Moments]) -> list[Tensor]:
    """Random weights of the discrete latents' values, in the place of their posterior's."""
    with torch.no_grad():
        values = [
            _whole(p, v, moments)
            for p, v in zip(factor.parts, factor.expected(moments), strict=True)
        ]
    latents = [
        (p, v) for p, v in zip(factor.parts, values, strict=True) if p.role.choice is not None
    ]
    if len(latents) == 1 and not latents[0][0].has_rows:
        chosen = _one_row_each(*latents[0])
        pairs = zip(factor.parts, values, strict=True)
        # A chain's transitions are between rows, of which no two are chosen.
        return [
            torch.zeros_like(v)
            if p.role.is_prior and p.role.choice is None
            else chosen.expand(v.shape)
            for p, v in pairs
        ]
    noisy = [
        v + DECIDED * torch.randn_like(v) if p.role.choice is not None else v
        for p, v in zip(factor.parts, values, strict=True)
    ]
    return summed(factor.sum_out, noisy).weights


def _whole(part: Part, value: Tensor, moments: Mapping[Block, Moments]) -> Tensor:
    """A log factor with an element for each row, where one stands for all."""
    return value.expand(part.raw(moments).shape) if part.role.repeated else value


def _one_row_each(latent: Part, value: Tensor) -> Tensor:
    """One observed row for each value of a latent, and no others. # shape: that of the value"""
    assert latent.role.choice is not None
    dim = value.dim() + latent.role.choice
    count = value.shape[dim]
    counts = torch.ones_like(value.select(dim, 0), dtype=torch.bool)
    if latent.role.mask is not None:
        counts = counts & latent.role.mask
    rows = counts.reshape(-1).nonzero().squeeze(-1)
    picked = rows[torch.randperm(len(rows), device=rows.device)[:count]]
    weights = torch.zeros(count, counts.numel(), dtype=value.dtype, device=value.device)
    weights[torch.arange(len(picked), device=rows.device), picked] = 1.0
    return weights.reshape(count, *counts.shape).movedim(0, dim)
