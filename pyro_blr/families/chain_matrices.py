# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Block-tridiagonal matrices: T blocks of D rows, of which only neighbours meet.

    S = [[S_11, S_12, 0, ...], [S_21, S_22, S_23, ...], ..., [..., S_TT]]

A matrix is given by its parts S_tt and S_t,t+1, a vector by its T blocks. The rows are eliminated
by odd-even (cyclic) reduction: every second block at once, given its two neighbours, then every
second one of those that are left. Reordered so, the Cholesky factor is S = R R' with log2(T) levels

    F_o F_o' = S_oo,   W_o = F_o^-1 [S_o,o-1  S_o,o+1],   S_ee <- S_ee - W_o'W_o on the neighbours,

each of them a few products of all its blocks together. Everything costs O(T D^3), and no array is
larger than a few times the parts.
"""

import math
from collections import deque
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import pad

from pyro_blr.families import matrices

from ..shapes import broadcast_shapes
from .chain_places import (
    Parts,
    earlier,
    even_and_odd,
    every_second,
    interleaved,
    later,
    left_after,
    neighbours,
    padded,
    pairs,
    placed,
    towards_neighbours,
    with_eliminated,
)


@dataclass(frozen=True)
class Level:
    """Every second block, eliminated given its neighbours; there may be none to the right.

    :param factor: F_o  # shape: (*batch, N, D, D)
    :param inverse: F_o^-1  # shape: (*batch, N, D, D)
    :param cross: W_o, the left neighbour's columns and the right one's  # shape: (*batch, N, D, 2D)
    """

    factor: Tensor
    inverse: Tensor
    cross: Tensor

    @cached_property
    def slopes(self) -> Tensor:
        """G_o = F_o'^-1 W_o: x_o has the mean -G_o (x_o-1, x_o+1) given these.

        # shape: (*batch, N, D, 2D)
        """
        slopes: Tensor = matrices.product(self.inverse.mT, self.cross)
        return slopes

    @cached_property
    def given(self) -> Tensor:
        """S_oo^-1, the covariance of x_o given its neighbours.  # shape: (*batch, N, D, D)"""
        given: Tensor = matrices.product(self.inverse.mT, self.inverse)
        return given


@dataclass(frozen=True)
class ChainFactor:
    """The factor R of a block-tridiagonal matrix; NaN where there is none.

    A vector in the order of elimination is kept at the places of its blocks.

    :param levels: the first one eliminated comes first.
    :param root: the factor of the block that is left  # shape: (*batch, D, D)
    """

    levels: tuple[Level, ...]
    root: Tensor

    def half_solve(self, vector: Tensor) -> Tensor:
        """Return R^-1 x.  # shape: (*sample, *batch, T, D)"""
        solved = []
        for level in self.levels:
            even, odd = even_and_odd(vector, 1)
            odd = matrices.apply(level.inverse, odd)
            left, right = matrices.apply(level.cross.mT, odd).chunk(2, -1)
            vector = even - placed(left, right, even.shape[-2], 1)
            solved.append(odd)
        root = self.root.unsqueeze(-3)
        vector = matrices.triangular_solve(root, vector.unsqueeze(-1)).squeeze(-1)
        for odd in reversed(solved):
            vector = interleaved(vector, odd, 1)
        return vector

    def back_solve(self, vector: Tensor) -> Tensor:
        """Return R'^-1 x.  # shape: (*sample, *batch, T, D)"""
        parts = []
        for _ in self.levels:
            vector, odd = even_and_odd(vector, 1)
            parts.append(odd)
        root = self.root.mT.unsqueeze(-3)
        vector = matrices.triangular_solve(root, vector.unsqueeze(-1), upper=True).squeeze(-1)
        for level, odd in zip(reversed(self.levels), reversed(parts), strict=True):
            rest = odd - matrices.apply(level.cross, neighbours(vector, odd.shape[-2], 1))
            vector = interleaved(vector, matrices.apply(level.inverse.mT, rest), 1)
        return vector

    def solve(self, vector: Tensor) -> Tensor:
        """Return S^-1 x.  # shape: (*sample, *batch, T, D)"""
        column, parts = vector.unsqueeze(-1), []
        for level in self.levels:
            column, odd = even_and_odd(column, 2)
            left, right = matrices.product(level.slopes.mT, odd).chunk(2, -2)
            column = column - placed(left, right, column.shape[-3], 2)
            parts.append(odd)
        column = torch.cholesky_solve(column, self.root.unsqueeze(-3))
        for level, odd in zip(reversed(self.levels), reversed(parts), strict=True):
            beside = neighbours(column, odd.shape[-3], 2)
            own = matrices.product(level.given, odd) - matrices.product(level.slopes, beside)
            column = interleaved(column, own, 2)
        return column.squeeze(-1)

    def whitened(self, vector: Tensor) -> Tensor:
        """Return R' x, whose square is x' S x.  # shape: (*sample, *batch, T, D)"""
        parts = []
        for level in self.levels:
            vector, odd = even_and_odd(vector, 1)
            beside = matrices.apply(level.cross, neighbours(vector, odd.shape[-2], 1))
            parts.append(matrices.apply(level.factor.mT, odd) + beside)
        vector = matrices.apply(self.root.mT.unsqueeze(-3), vector)
        for odd in reversed(parts):
            vector = interleaved(vector, odd, 1)
        return vector

    def log_diagonal(self) -> Tensor:
        """Return half the log-determinant of S.  # shape: (*batch,)"""
        total = matrices.log_diagonal(self.root)
        for level in self.levels:
            total = total + matrices.log_diagonal(level.factor).sum(-1)
        return total

    @property
    def inverse(self) -> Parts:
        """The parts of S^-1 where S has its own, C_tt and C_t,t+1."""
        return self.inverses[0]

    @cached_property
    def inverses(self) -> list[Parts]:
        """These parts for the whole chain, and for those left after each level; found once."""
        first = torch.cholesky_inverse(self.root).unsqueeze(-3)
        found = [(first, first.narrow(-3, 0, 0))]
        for level in reversed(self.levels):
            found.append(_extended(level, found[-1]))
        return found[::-1]


#: The last factors and what they are of. A step asks for one three times: whether it is inside the
#: domain, when it is written, and for its moments; the next step's entry is where this one arrived.
#: Comparing 10^4 blocks costs a twentieth of factorising them.
_RECENT: deque[tuple[Parts, ChainFactor]] = deque(maxlen=2)


def factorise(parts: Parts) -> ChainFactor:
    """Return the factor; NaN where the matrix is not positive definite.

    That of a matrix with the same entries as one of the last is taken again, but where gradients
    are wanted, and on devices, which would have to be waited for. Inside ``torch.func``'s
    transforms and in inference mode it is not: what is found there is of no use outside.
    """
    is_within = torch.is_inference_mode_enabled()
    is_within |= torch._C._functorch.peek_interpreter_stack() is not None
    is_away = any(p.requires_grad or p.device.type != "cpu" for p in parts)
    if is_within or is_away or not host_memory(parts):
        return _factorised(parts)
    for known, factor in _RECENT:
        if all(_are_same(a, b) for a, b in zip(known, parts, strict=True)):
            return factor
    factor = _factorised(parts)
    _RECENT.append((tuple(p.clone() for p in parts), factor))  # type: ignore[arg-type]
    return factor


def _are_same(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)


def host_memory(parts: Parts) -> bool:
    """Whether tensors are plain ones, with entries of their own (none of vmap's, no fake ones)."""
    return all(
        type(p) is Tensor and not torch._C._functorch.is_functorch_wrapped_tensor(p) for p in parts
    )


def _factorised(parts: Parts) -> ChainFactor:
    diagonal, beside = parts
    levels = []
    while diagonal.shape[-3] > 1:
        odd = every_second(diagonal, 1, 2)
        factor = matrices.cholesky(odd)
        eye = torch.eye(factor.shape[-1], dtype=factor.dtype, device=factor.device)
        inverse = matrices.triangular_solve(factor, eye.expand_as(factor))
        cross = matrices.product(inverse, towards_neighbours(beside, odd.shape[-3]))
        levels.append(Level(factor, inverse, cross))
        diagonal, beside = left_after((diagonal, beside), matrices.product(cross.mT, cross))
    return ChainFactor(tuple(levels), matrices.cholesky(diagonal.squeeze(-3)))


def positive_definite(parts: Parts) -> Tensor:
    """Tell which matrices are finite and positive definite.

    :return: a boolean tensor  # shape: (*batch,)
    """
    # NaN in a level goes on to its neighbours, and so to the block that is left.
    root = factorise(parts).root
    there = (root == root).all(-1).all(-1)
    for part in parts:
        there = there & (part.abs() < math.inf).all(-1).all(-1).all(-1)
    return there


def precision_of(covariances: Parts) -> Parts:
    """Return the parts of the block-tridiagonal S whose inverse has the parts C_tt and C_t,t+1.

    Block t + 1 has the slope K_t = C_t+1,t C_tt^-1 and the covariance Q_t = C_t+1,t+1 - K_t C_t,t+1
    given block t.
    """
    slopes, given = conditionals(covariances)
    factor = matrices.cholesky(torch.cat([covariances[0].narrow(-3, 0, 1), given], -3))
    inverse = torch.cholesky_inverse(factor)
    cross = -slopes.mT @ later(inverse, 2)
    return inverse - padded(cross @ slopes, 0, inverse.shape[-3]), cross


def conditionals(covariances: Parts) -> Parts:
    """Return the slope K_t of block t + 1 on block t, and its covariance Q_t given block t.

    # shapes: (*batch, T - 1, D, D) both
    """
    diagonal, beside = covariances
    factor = matrices.cholesky(earlier(diagonal, 2))
    slopes = torch.cholesky_solve(beside, factor).mT
    return slopes, matrices.symmetric_part(later(diagonal, 2) - slopes @ beside)


def apply(parts: Parts, vector: Tensor) -> Tensor:
    """Return S x.  # shape: (*batch, T, D)"""
    diagonal, beside = parts
    after = matrices.apply(beside, later(vector, 1))
    before = matrices.apply(beside.mT, earlier(vector, 1))
    return matrices.apply(diagonal, vector) + pad(after, (0, 0, 0, 1)) + pad(before, (0, 0, 1, 0))


def dense(parts: Parts) -> Tensor:
    """Return S as one matrix.  # shape: (*batch, T D, T D)"""
    diagonal, beside = parts
    length, width = diagonal.shape[-3:-1]
    batch = broadcast_shapes(diagonal.shape[:-3], beside.shape[:-3])
    matrix = diagonal.new_zeros(*batch, length, length, width, width)
    matrix.diagonal(0, -4, -3).copy_(diagonal.movedim(-3, -1))
    matrix.diagonal(1, -4, -3).copy_(beside.movedim(-3, -1))
    matrix.diagonal(-1, -4, -3).copy_(beside.mT.movedim(-3, -1))
    return matrix.transpose(-3, -2).reshape(*batch, length * width, length * width)


def _extended(level: Level, known: Parts) -> Parts:
    """The parts of the inverse with the blocks of a level, from those of the blocks left after it.

    With K the covariance of an eliminated block's neighbours, Cov(x_o, neighbours) = -G K and
    C_oo = S_oo^-1 + G K G'.
    """
    slopes = level.slopes
    moved = matrices.product(slopes, pairs(known, slopes.shape[-3]))
    return with_eliminated(known, level.given + matrices.product(moved, slopes.mT), -moved)
