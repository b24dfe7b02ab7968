# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Local latents at their own optimum to all digits, for steps of a size that was asked for.

Such a step is that of stochastic variational inference as it is written (arXiv 1206.7051), whose
messages are at the rows' optimum. Where an update leaves a share c of the distance to it, plain
rounds come near in log(1e-13) / log(c) of them, some hundreds for the topics of a document. What
two updates say of c, row by row, leads most of the way at once (SQUAREM, Varadhan & Roland 2008).
"""

import torch
from torch import Tensor

from ..families import Natural
from ..lifting import host
from .cone import Safety, inside
from .local import settle
from .objective import Block, Naturals, SweptObjective
from .sweep import SweepMemory, has_not_fallen, improper

#: Rounds of two updates each.
ROUNDS = 150

#: Rows that move by a smaller share of their natural parameters stand still.
STILL = 1e-13

#: A row goes at most so many times as far as its update: what c says is rounding where c is near 1.
FARTHEST = 1e3


def settle_to_rounding(
    objective: SweptObjective,
    naturals: Naturals,
    local: tuple[Block, ...],
    safety: Safety,
    memory: SweepMemory,
) -> dict[Block, Natural]:
    """As :func:`~.local.settle`, until no row moves by more than rounding.

    Blocks that are not conjugate search on the ELBO, which has no more digits than ``settle`` uses.

    :raises ImproperPosteriorError: if conjugate messages do not sum to a proper distribution.
    """
    at_once = len(local) == 1 and objective.is_linear_in(local[0])
    if at_once or not all(objective.is_conjugate_in(b) for b in local):
        return settle(objective, naturals, local, safety, memory)
    current, reached = dict(naturals), None
    for _ in range(ROUNDS):
        first = _updated(objective, current, local)
        second = _updated(objective, first, local)
        if all(_stands(first[b], second[b], b) for b in local):
            return second
        reached = objective.value(second) if reached is None else reached
        current = _farther(current, first, second, local)
        there = objective.value(current)
        if has_not_fallen(reached, there):
            reached = there
        else:
            current = second  # updates do not fall: it is as high as what was reached
    return current


def _updated(
    objective: SweptObjective, naturals: Naturals, local: tuple[Block, ...]
) -> dict[Block, Natural]:
    """Each local block at its message, one after the other."""
    current = dict(naturals)
    for block in local:
        message = objective.messages(current, block)[block]
        if not inside(block.family, message):
            raise improper(block)
        current[block] = message
    return current


def _farther(
    start: Naturals, first: Naturals, second: Naturals, local: tuple[Block, ...]
) -> dict[Block, Natural]:
    """Where two updates point to; the second one, of blocks that would leave their domain."""
    found = dict(second)
    for block in local:
        there = _extrapolated(block, start[block], first[block], second[block])
        if inside(block.family, there):
            found[block] = there
    return found


def _extrapolated(block: Block, start: Natural, first: Natural, second: Natural) -> Natural:
    """Two updates followed by row, as far as their second difference allows."""
    rows = len(block.batch_shape)
    if len({t.shape[:rows] for t in start}) > 1:  # a matrix that rows share is of none of them
        return second
    moves = tuple(b - a for a, b in zip(start, first, strict=True))
    bends = tuple(c - b - m for b, c, m in zip(first, second, moves, strict=True))
    move, bend = _length(moves, rows), _length(bends, rows)
    factor = torch.where(bend > 0, move / bend, 1.0).clamp(1.0, FARTHEST)
    factor = torch.where(move > STILL * _length(first, rows), factor, 1.0)
    parts = zip(start, moves, bends, strict=True)
    return tuple(
        a + 2 * s * m + s**2 * b
        for a, m, b in parts
        for s in (factor.reshape(factor.shape + (1,) * (a.dim() - rows)),)
    )


def _stands(before: Natural, after: Natural, block: Block) -> bool:
    """Whether no row moved by more than rounding (this waits for the device)."""
    rows = len(block.batch_shape)
    if len({t.shape[:rows] for t in before}) > 1:
        rows = 0
    moved = _length(tuple(b - a for a, b in zip(before, after, strict=True)), rows)
    return host.truth((moved <= STILL * _length(after, rows)).all())


def _length(natural: Natural, rows: int) -> Tensor:
    """The Euclidean length of each row's natural parameters. # shape: that of the rows"""
    squares = [t.square().reshape(*t.shape[:rows], -1).sum(-1) for t in natural]
    return torch.stack(squares).sum(0).sqrt()
