# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of q for sampled factors: one draw of each block serves every factor of an evaluation."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..lifting import host
from ..lifting.blocks import Block
from ..lifting.moments import GaussianMoments, Moments
from ..lifting.points import PointMoments
from ..lifting.terms import LatentSite
from .latents import Latents, block_values


class Draws:
    """Draws whose noise is fixed: evaluated at other moments they are common random numbers.

    Gaussian noise comes in antithetic pairs: the odd part of the integrand, which carries most of
    the variance of the message in z, cancels. Other families fix their random state instead.

    :param int count: the number of draws; pairs are formed while there are two left.
    """

    def __init__(self, latents: Latents, count: int) -> None:
        self.latents = latents
        self.count = count
        self._noise: dict[tuple[Block, int], Tensor] = {}
        self._seed = host.seed()
        self._values: tuple[Mapping[Block, Moments], list[dict[LatentSite, Tensor]]] | None = None

    def particles(self, moments: Mapping[Block, Moments]) -> list[dict[LatentSite, Tensor]]:
        """The sites' variables at each draw, differentiable in the moments' leaves."""
        if self._values is None or self._values[0] is not moments:
            self._values = (moments, [self._particle(moments, i) for i in range(self.count)])
        return self._values[1]

    def _particle(self, moments: Mapping[Block, Moments], i: int) -> dict[LatentSite, Tensor]:
        values: dict[LatentSite, Tensor] = {}
        for number, (block, own) in enumerate(moments.items()):
            if isinstance(own, PointMoments):  # no sampled factor depends on it
                continue
            if isinstance(own, GaussianMoments):
                draw = own.draw(self._gaussian_noise(block, own, i))
            else:
                with torch.random.fork_rng(devices=_devices(own)):
                    torch.manual_seed((self._seed + 1000003 * i + number) % 2**63)
                    draw = own.draw()
            values.update(block_values(block, self.latents, draw))
        return values

    def _gaussian_noise(self, block: Block, own: GaussianMoments, i: int) -> Tensor:
        pair, odd = divmod(i, 2)
        if (block, pair) not in self._noise:
            self._noise[block, pair] = torch.randn(
                own.noise_shape, dtype=own.leaves[0].dtype, device=own.leaves[0].device
            )
        noise = self._noise[block, pair]
        return -noise if odd else noise


def _devices(own: Moments) -> list[torch.device]:
    device = own.leaves[0].device
    return [device] if device.type == "cuda" else []
