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

Parts = tuple[Tensor, Tensor]
"""S_tt and S_t,t+1.  # shapes: (*batch, T, D, D), (*batch, T - 1, D, D)"""


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

    @property
    def slopes(self) -> Tensor:
        """G_o = F_o'^-1 W_o: x_o has the mean -G_o (x_o-1, x_o+1) given these.

        # shape: (*batch, N, D, 2D)
        """
        slopes: Tensor = self.inverse.mT @ self.cross
        return slopes


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
            even, odd = _split(vector)
            odd = matrices.apply(level.inverse, odd)
            left, right = matrices.apply(level.cross.mT, odd).chunk(2, -1)
            vector = even - _placed(left, right, even.shape[-2], 1)
            solved.append(odd)
        root = self.root.unsqueeze(-3)
        vector = matrices.triangular_solve(root, vector.unsqueeze(-1)).squeeze(-1)
        for odd in reversed(solved):
            vector = _interleaved(vector, odd, 1)
        return vector

    def back_solve(self, vector: Tensor) -> Tensor:
        """Return R'^-1 x.  # shape: (*sample, *batch, T, D)"""
        parts = []
        for _ in self.levels:
            vector, odd = _split(vector)
            parts.append(odd)
        root = self.root.mT.unsqueeze(-3)
        vector = matrices.triangular_solve(root, vector.unsqueeze(-1), upper=True).squeeze(-1)
        for level, odd in zip(reversed(self.levels), reversed(parts), strict=True):
            rest = odd - matrices.apply(level.cross, _beside(vector, odd.shape[-2]))
            vector = _interleaved(vector, matrices.apply(level.inverse.mT, rest), 1)
        return vector

    def solve(self, vector: Tensor) -> Tensor:
        """Return S^-1 x."""
        return self.back_solve(self.half_solve(vector))

    def whitened(self, vector: Tensor) -> Tensor:
        """Return R' x, whose square is x' S x.  # shape: (*sample, *batch, T, D)"""
        parts = []
        for level in self.levels:
            vector, odd = _split(vector)
            beside = matrices.apply(level.cross, _beside(vector, odd.shape[-2]))
            parts.append(matrices.apply(level.factor.mT, odd) + beside)
        vector = matrices.apply(self.root.mT.unsqueeze(-3), vector)
        for odd in reversed(parts):
            vector = _interleaved(vector, odd, 1)
        return vector

    def log_diagonal(self) -> Tensor:
        """Return half the log-determinant of S.  # shape: (*batch,)"""
        total = matrices.log_diagonal(self.root)
        for level in self.levels:
            total = total + matrices.log_diagonal(level.factor).sum(-1)
        return total

    @cached_property
    def _inverse(self) -> Parts:
        return self.inverses()[0]

    def inverse(self) -> Parts:
        """Return the parts of S^-1 where S has its own, C_tt and C_t,t+1; found once."""
        return self._inverse

    def inverses(self) -> list[Parts]:
        """Return these parts for the whole chain, and for those left after each level."""
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
    are wanted, and on devices, which would have to be waited for.
    """
    if any(p.requires_grad or p.device.type != "cpu" for p in parts) or not host_memory(parts):
        return _factorised(parts)
    for known, factor in _RECENT:
        if all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(known, parts, strict=True)):
            return factor
    factor = _factorised(parts)
    _RECENT.append((tuple(p.clone() for p in parts), factor))  # type: ignore[arg-type]
    return factor


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
        neighbours = _padded(every_second(beside, 1, 2), 0, odd.shape[-3])
        cross = inverse @ torch.cat([every_second(beside, 0, 2).mT, neighbours], -1)
        levels.append(Level(factor, inverse, cross))
        left, right = cross.chunk(2, -1)
        even = every_second(diagonal, 0, 2)
        diagonal = even - _placed(left.mT @ left, right.mT @ right, even.shape[-3], 2)
        beside = -(left.mT @ right).narrow(-3, 0, even.shape[-3] - 1)
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
    return inverse - _padded(cross @ slopes, 0, inverse.shape[-3]), cross


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
    dim = blocks.dim() - 1 - dims
    rest = blocks.narrow(dim, start, blocks.shape[dim] - start)
    return rest.unfold(dim, 1, 2).squeeze(-1) if rest.shape[dim] else rest


def _extended(level: Level, known: Parts) -> Parts:
    """The parts of the inverse with the blocks of a level, from those of the blocks left after it.

    With K the covariance of an eliminated block's neighbours, Cov(x_o, neighbours) = -G K and
    C_oo = S_oo^-1 + G K G'.
    """
    slopes = level.slopes
    moved = slopes @ pairs(known, slopes.shape[-3])
    own = level.inverse.mT @ level.inverse + moved @ slopes.mT
    left, right = (-moved).chunk(2, -1)
    return _interleaved(known[0], own, 2), _interleaved(
        left.mT, right.narrow(-3, 0, known[1].shape[-3]), 2
    )


def pairs(covariances: Parts, count: int) -> Tensor:
    """Return the joint covariances of successive blocks; zeros where there is no right one.

    # shape: (*batch, count, 2D, 2D)
    """
    diagonal, beside = covariances
    beside = _padded(beside, 0, count)
    right = _padded(later(diagonal, 2), 0, count)
    above = torch.cat([diagonal.narrow(-3, 0, count), beside], -1)
    return torch.cat([above, torch.cat([beside.mT, right], -1)], -2)


def _split(vector: Tensor) -> tuple[Tensor, Tensor]:
    """The blocks that are left, and those that are eliminated."""
    return every_second(vector, 0, 1), every_second(vector, 1, 1)


def _beside(even: Tensor, count: int) -> Tensor:
    """The neighbours of each eliminated block, joined.  # shape: (*batch, count, 2D)"""
    right = later(even, 1)
    right = pad(right, (0, 0, 0, count - right.shape[-2]))
    return torch.cat([even.narrow(-2, 0, count), right], -1)


def _placed(left: Tensor, right: Tensor, count: int, dims: int) -> Tensor:
    """What eliminated blocks leave on their neighbours: on the left ones, and on the right ones.

    :param dims: of a block: 1 for vectors, 2 for matrices.
    """
    ahead = count - left.shape[-1 - dims]
    gap = (0, 0) * dims
    right = right.narrow(-1 - dims, 0, count - 1)
    return pad(left, (*gap, 0, ahead)) + pad(right, (*gap, 1, 0))


def _padded(blocks: Tensor, before: int, count: int) -> Tensor:
    """Matrices with zero ones added in front and, up to a number of them, behind."""
    after = count - before - blocks.shape[-3]
    return pad(blocks, (0, 0, 0, 0, before, after)) if before or after else blocks


def _interleaved(even: Tensor, odd: Tensor, dims: int) -> Tensor:
    """Blocks of even and odd places in one row.

    :param dims: of a block: 1 for vectors, 2 for matrices.
    """
    dim = -1 - dims
    short = even.shape[dim] - odd.shape[dim]
    total = even.shape[dim] + odd.shape[dim]
    if short:
        odd = pad(odd, (*(0, 0) * dims, 0, short))
    lead = broadcast_shapes(even.shape, odd.shape)
    both = torch.stack([even.expand(lead), odd.expand(lead)], dim)
    return both.flatten(dim - 1, dim).narrow(dim, 0, total)
