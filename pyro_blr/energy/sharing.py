# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Covariances that are the same all along a plate are held once.

In probabilistic PCA every ``x_n`` has the precision ``I + E[tau W'W]``: the messages to all rows
have one precision matrix. Such rows are one variable of the family with a shared covariance, whose
second mean parameter is ``sum_n E[x_n x_n']``. A block is held so where every factor is linear in
these mean parameters; what q can be is the same.
"""

from collections.abc import Sequence
from dataclasses import replace

from ..families import SharedCovarianceNormal
from ..lifting.blocks import Block, Placement
from ..lifting.chain_blocks import ChainBlock
from .joining import is_conjugate, rows_move_alone, summed_factors
from .traced import Traced


def share(blocks: Sequence[Block], traced: Traced) -> list[Block]:
    """The blocks, with the batch dims along which all messages have one precision as rows."""
    blocks = list(blocks)
    factors = summed_factors(traced)
    # What discrete latents choose weighs elements differently.
    weighed = {n for site in traced.sites if site.choices or site.chain for n in site.touches}
    for i, block in enumerate(blocks):
        if any(s.name in weighed for s in block.sites):
            continue
        for rows in _choices(block):
            shared = _with_rows(block, rows)
            if not rows_move_alone([shared], traced):
                continue
            trial = [*blocks[:i], shared, *blocks[i + 1 :]]
            if is_conjugate(shared, trial, traced, factors):
                blocks = trial
                break
    return blocks


def _choices(block: Block) -> list[tuple[int, ...]]:
    """The sets of batch dims to try: all of them together, then each alone."""
    if not block.gaussian or block.event_size is None or isinstance(block, ChainBlock):
        return []
    long = tuple(d for d, size in enumerate(block.batch_shape) if size > 1)
    return [long, *((d,) for d in long if len(long) > 1)] if long else []


def _with_rows(block: Block, rows: tuple[int, ...]) -> Block:
    """The block with some batch dims last, as rows that share a covariance."""
    order = [d for d in range(len(block.batch_shape)) if d not in rows] + list(rows)
    placements = {
        name: Placement(tuple(p.batch_dims[d] for d in order), p.offset)
        for name, p in block.placements.items()
    }
    return replace(
        block,
        family=SharedCovarianceNormal(),
        batch_shape=tuple(block.batch_shape[d] for d in order),
        placements=placements,
        row_dims=len(rows),
    )
