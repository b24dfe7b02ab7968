# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of q for sampled factors: one draw of each block serves every factor of an evaluation."""

from collections.abc import Callable, Container, Mapping
from math import prod

import torch
from torch import Tensor

from ..estimators import Variable, gaussian_points
from ..estimators.hessians import EXACT
from ..lifting import host
from ..lifting.blocks import Block
from ..lifting.low_rank_moments import LowRankMoments
from ..lifting.moments import GaussianMoments, Moments, SharedGaussianMoments
from ..lifting.points import PointMoments
from .latents import Latents, block_values

#: Draws of blocks. # shape of each: (draws, *block)
Drawn = dict[Block, Tensor]
#: Of one draw of each site's variable, by name.
Function = Callable[[Mapping[str, Tensor]], tuple[Tensor, Tensor]]


class Draws:
    """Draws whose noise is fixed: evaluated at other moments they are common random numbers.

    Gaussians share one set of quasi-random points in antithetic pairs. Other families fix their
    random state instead.

    :param count: the number of draws.
    :param seed: of the noise; taken from torch's generator if None.
    """

    def __init__(self, latents: Latents, count: int, seed: int | None = None) -> None:
        self.latents = latents
        self.count = count
        self.seed = host.seed() if seed is None else seed
        self._points: dict[Block, Tensor] = {}
        self._is_vectorised = True

    def of_blocks(self, moments: Mapping[Block, Moments], wanted: Container[Block]) -> Drawn:
        """Draws of some blocks, differentiable in the moments' leaves. # shape: (count, *block)"""
        drawn: Drawn = {}
        for number, (block, own) in enumerate(moments.items()):
            if block not in wanted or isinstance(own, PointMoments):
                continue
            if isinstance(own, GaussianMoments):
                drawn[block] = own.draw(self._noise(moments, block))
            else:
                with torch.random.fork_rng(devices=_devices(own)):
                    torch.manual_seed((self.seed + number) % 2**63)
                    drawn[block] = own.draw(None, self.count)
        return drawn

    def by_site(self, drawn: Drawn) -> dict[str, Tensor]:
        """The sites' variables at the draws of blocks. # shape of each: (count, *variable)"""
        values: dict[str, Tensor] = {}
        for block, draw in drawn.items():
            own = block_values(block, self.latents, draw)
            values.update({site.name: value for site, value in own.items()})
        return values

    def mapped(self, function: Function, values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """A function of one draw of each site, at all of them. # shape of both: (count,)

        It is vectorised by ``torch.vmap``; a program with an operation that ``vmap`` cannot take is
        run draw by draw.
        """
        if self._is_vectorised:
            try:
                return torch.vmap(function, randomness="different")(values)
            except (RuntimeError, NotImplementedError, ValueError):
                self._is_vectorised = False
        each = [function({n: v[i] for n, v in values.items()}) for i in range(self.count)]
        return torch.stack([v for v, _ in each]), torch.stack([m for _, m in each])

    def _noise(self, moments: Mapping[Block, Moments], block: Block) -> Tensor:
        """A Gaussian block's part of the common points. # shape: (count, *noise)"""
        if block not in self._points:
            self._points.clear()
            gaussian = {b: own for b, own in moments.items() if isinstance(own, GaussianMoments)}
            sizes = [prod(own.noise_shape) for own in gaussian.values()]
            parts = gaussian_points(self.count, sum(sizes), self.seed).split(sizes, -1)
            for (b, own), part in zip(gaussian.items(), parts, strict=True):
                self._points[b] = part.to(own.mean).reshape(self.count, *own.noise_shape)
        return self._points[block]


def has_central_leaves(own: Moments) -> bool:
    """Whether the leaves are means and full covariances, in which Hessians are derivatives.

    A covariance of low rank may be had as a matrix where exact Hessians are: along draws, the
    derivative in a d has noise of d^1/2 where itself it is of d, and the optimum on draws at d = 0.
    """
    if isinstance(own, LowRankMoments):
        return own.mean.numel() <= EXACT
    return type(own) in (GaussianMoments, SharedGaussianMoments)


def variable(block: Block, own: Moments, draw: Tensor) -> Variable:
    """A Gaussian block and its draws, as an estimator sees it."""
    if isinstance(own, LowRankMoments):
        return Variable(own.mean, own.covariance, own.precision(), draw, scalar=False)
    mean, covariance = own.leaves
    precision = -2 * own.natural[1].detach()
    return Variable(mean, covariance, precision, draw, block.event_size is None)


def _devices(own: Moments) -> list[torch.device]:
    device = own.leaves[0].device
    return [device] if device.type == "cuda" else []
