# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of q for sampled factors: one draw of each block serves every factor of an evaluation."""

from collections.abc import Callable, Container, Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from ..estimators import Variable, gaussian_points
from ..estimators.hessians import EXACT
from ..lifting import host
from ..lifting.blocks import Block
from ..lifting.low_rank_moments import LowRankMoments
from ..lifting.moments import GaussianMoments, Moments, SharedGaussianMoments
from ..lifting.points import PointMoments
from ..random_state import from_seed
from .at_prior import NoiseBlock
from .latents import Latents, block_values

#: Draws of blocks. # shape of each: (draws, *block)
Drawn = dict[Block, Tensor]
#: Numbers of a program that are computed together on a CPU: 64 MB, of which an operation reads and
#: writes a part that stays in its caches. Twice as fast as all of 2048 draws at once.
CACHED_NUMBERS = 2**23
#: Of one draw of each of several tensors, in nested containers.
Function = Callable[..., tuple[Tensor, ...]]


class Draws:
    """Draws whose noise is fixed: evaluated at other moments they are common random numbers.

    All blocks share one set of quasi-random points in antithetic pairs, of which a draw is a smooth
    function: a Gaussian's is affine, a Gamma's the quantile at the point's level. A family of the
    user's own that has no such map fixes its random state instead.

    :param count: the number of draws.
    :param seed: of the noise; taken from torch's generator if None.
    :param matched: whether the points' second moments are exact where they can be; not where the
        mean over many seeds must have no bias (see :mod:`..estimators.points`).
    """

    def __init__(
        self, latents: Latents, count: int, seed: int | None = None, matched: bool = True
    ) -> None:
        self.latents = latents
        self.count = count
        self.seed = host.seed() if seed is None else seed
        self.matched = matched
        self._points: dict[Block, Tensor] = {}
        self._is_vectorised = True

    def of_blocks(self, moments: Mapping[Block, Moments], wanted: Container[Block]) -> Drawn:
        """Draws of some blocks, differentiable in the moments' leaves. # shape: (count, *block)"""
        drawn: Drawn = {}
        for number, (block, own) in enumerate(moments.items()):
            if block not in wanted or _is_point(own):
                continue
            if own.noise_shape is not None:
                drawn[block] = own.draw(self._noise(moments, block))
            else:
                with from_seed((self.seed + number) % 2**63):
                    drawn[block] = own.draw(None, self.count)
        return drawn

    def by_site(self, drawn: Drawn) -> dict[str, Tensor]:
        """The sites' variables at the draws of blocks. # shape of each: (count, *variable)"""
        values: dict[str, Tensor] = {}
        for block, draw in drawn.items():
            own = block_values(block, self.latents, draw)
            values.update({site.name: value for site, value in own.items()})
        return values

    def mapped(self, function: Function, *values: Any, numbers: int = 1) -> tuple[Tensor, ...]:
        """A function of one draw, at all of them. # shape of each: (draws, *one)

        It is vectorised by ``torch.vmap``, on a CPU over so many draws at a time as its caches
        hold; a program with an operation that ``vmap`` cannot take is run draw by draw.

        :param numbers: that the program holds for one draw.
        """
        tensors = pytree.tree_leaves(values)
        if self._is_vectorised:
            together = max(1, CACHED_NUMBERS // numbers)
            on_cpu = all(v.device.type == "cpu" for v in tensors)
            size = together if on_cpu and together < len(tensors[0]) else None
            try:
                return torch.vmap(function, randomness="different", chunk_size=size)(*values)
            except (RuntimeError, NotImplementedError, ValueError):
                self._is_vectorised = False
        each = [function(*_nth(values, i)) for i in range(len(tensors[0]))]
        return tuple(torch.stack(one) for one in zip(*each, strict=True))

    def _noise(self, moments: Mapping[Block, Moments], block: Block) -> Tensor:
        """A block's part of the common points. # shape: (count, *noise)"""
        if block not in self._points:
            self._points.clear()
            shapes = {b: own.noise_shape for b, own in moments.items() if not _is_point(own)}
            ordered = sorted(shapes.items(), key=lambda one: isinstance(one[0], NoiseBlock))
            sized = {b: shape for b, shape in ordered if shape is not None}
            sizes = [prod(shape) for shape in sized.values()]
            moved = sum(
                n for b, n in zip(sized, sizes, strict=True) if not isinstance(b, NoiseBlock)
            )
            points = gaussian_points(self.count, sum(sizes), self.seed, self.matched, moved)
            for (b, shape), part in zip(sized.items(), points.split(sizes, -1), strict=True):
                self._points[b] = part.to(moments[b].leaves[0]).reshape(self.count, *shape)
        return self._points[block]


def has_central_leaves(own: Moments) -> bool:
    """Whether the leaves are means and full covariances, in which Hessians are derivatives.

    A covariance of low rank may be had as a matrix where exact Hessians are: along draws, the
    derivative in a d has noise of d^1/2 where itself it is of d, and the optimum on draws at d = 0.
    """
    if isinstance(own, LowRankMoments):
        return own.mean.numel() <= EXACT
    return type(own) in (GaussianMoments, SharedGaussianMoments)


def variable(block: Block, own: Moments, draw: Tensor, seed: int) -> Variable:
    """A Gaussian block and its draws, as an estimator sees it.

    :param seed: of the draws.
    """
    if isinstance(own, LowRankMoments):
        return Variable(own.mean, own.covariance, own.precision(), draw, False, seed)
    mean, covariance = own.leaves
    precision = -2 * own.natural[1].detach()
    return Variable(mean, covariance, precision, draw, block.event_size is None, seed)


def _nth(values: Any, i: int) -> Any:
    """One draw of each tensor in nested containers."""
    return pytree.tree_map(lambda v: v[i], values)


def _is_point(own: Moments) -> bool:
    return isinstance(own, PointMoments)
