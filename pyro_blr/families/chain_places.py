# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Blocks along a chain: first and last ones, and those at even and at odd places.

The blocks at odd places are eliminated between their neighbours, the even ones; to the right of the
last one there may be none.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

Parts = tuple[Tensor, Tensor]
"""S_tt and S_t,t+1.  # shapes: (*batch, T, D, D), (*batch, T - 1, D, D)"""


def earlier(blocks: Tensor, dims: int) -> Tensor:
    """All blocks but the last one.

    :param dims: of a block: 1 for vectors, 2 for matrices.
    """
    return blocks.narrow(-1 - dims, 0, blocks.shape[-1 - dims] - 1)


def later(blocks: Tensor, dims: int) -> Tensor:
    """All blocks but the first one.

    :param dims: of a block: 1 for vectors, 2 for matrices.
    """
    return blocks.narrow(-1 - dims, 1, blocks.shape[-1 - dims] - 1)


def every_second(blocks: Tensor, start: int, dims: int) -> Tensor:
    """Every second block from the first or the second one on, as a view.

    :param dims: of a block: 1 for vectors, 2 for matrices.
    """
    # An index in brackets needs the device itself, which tensors without entries do not have.
    every: Tensor = torch.ops.aten.slice.Tensor(blocks, -1 - dims, start, None, 2)
    return every


def even_and_odd(blocks: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """The blocks that are left, and those that are eliminated.

    :param dims: of a block: 1 for vectors, 2 for columns.
    """
    return every_second(blocks, 0, dims), every_second(blocks, 1, dims)


def neighbours(even: Tensor, count: int, dims: int) -> Tensor:
    """The neighbours of each eliminated block, joined.  # shape: (*batch, count, 2D[, 1])

    :param dims: of a block: 1 for vectors, 2 for columns.
    """
    right = later(even, dims)
    right = pad(right, (*(0, 0) * dims, 0, count - right.shape[-1 - dims]))
    return torch.cat([even.narrow(-1 - dims, 0, count), right], -dims)


def placed(left: Tensor, right: Tensor, count: int, dims: int) -> Tensor:
    """What eliminated blocks leave on their neighbours: on the left ones, and on the right ones.

    :param dims: of a block: 1 for vectors, 2 for matrices.
    """
    ahead = count - left.shape[-1 - dims]
    gap = (0, 0) * dims
    right = right.narrow(-1 - dims, 0, count - 1)
    return pad(left, (*gap, 0, ahead)) + pad(right, (*gap, 1, 0))


def padded(blocks: Tensor, before: int, count: int) -> Tensor:
    """Matrices with zero ones added in front and, up to a number of them, behind."""
    after = count - before - blocks.shape[-3]
    return pad(blocks, (0, 0, 0, 0, before, after)) if before or after else blocks


def interleaved(even: Tensor, odd: Tensor, dims: int) -> Tensor:
    """Blocks of even and odd places in one row.

    :param dims: of a block: 1 for vectors, 2 for matrices.
    """
    dim = -1 - dims
    total = even.shape[dim] + odd.shape[dim]
    if odd.shape[dim] < even.shape[dim]:
        odd = pad(odd, (*(0, 0) * dims, 0, 1))
    if odd.shape != even.shape:
        even, odd = torch.broadcast_tensors(even, odd)
    both = torch.stack([even, odd], dim).flatten(dim - 1, dim)
    return both.narrow(dim, 0, total)


def towards_neighbours(beside: Tensor, count: int) -> Tensor:
    """[S_o,o-1  S_o,o+1] of every second block o; zeros where there is no right one.

    # shape: (*batch, count, D, 2D)
    """
    right = padded(every_second(beside, 1, 2), 0, count)
    return torch.cat([every_second(beside, 0, 2).mT, right], -1)


def pairs(covariances: Parts, count: int) -> Tensor:
    """Return the joint covariances of successive blocks; zeros where there is no right one.

    # shape: (*batch, count, 2D, 2D)
    """
    diagonal, beside = covariances
    beside = padded(beside, 0, count)
    right = padded(later(diagonal, 2), 0, count)
    above = torch.cat([diagonal.narrow(-3, 0, count), beside], -1)
    return torch.cat([above, torch.cat([beside.mT, right], -1)], -2)


def left_after(parts: Parts, taken: Tensor) -> Parts:
    """The parts of the blocks that a level leaves, of a matrix less what it takes off them.

    :param taken: from the neighbours of each eliminated block.  # shape: (*batch, N, 2D, 2D)
    """
    even, width = every_second(parts[0], 0, 2), taken.shape[-1] // 2
    (left, across), (_, right) = (rows.split(width, -1) for rows in taken.split(width, -2))
    beside = -across.narrow(-3, 0, even.shape[-3] - 1)  # before it they do not meet
    return even - placed(left, right, even.shape[-3], 2), beside


def with_eliminated(known: Parts, own: Tensor, towards: Tensor) -> Parts:
    """The parts of a matrix with a level's blocks, from those of the blocks left after it.

    :param own: of the eliminated blocks.
    :param towards: theirs with their neighbours, as :func:`towards_neighbours` has them.
    """
    left, right = towards.chunk(2, -1)
    right = right.narrow(-3, 0, known[1].shape[-3])
    return interleaved(known[0], own, 2), interleaved(left.mT, right, 2)
