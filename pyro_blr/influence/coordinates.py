# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Natural parameters of several blocks as one vector, each symmetric pair of entries once."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..families import Natural
from ..lifting.blocks import Block


class Coordinates:
    """The independent numbers of the natural parameters of some blocks.

    :param naturals: natural parameters of the blocks, which show the shapes.
    """

    def __init__(self, naturals: Mapping[Block, Natural]) -> None:
        self.blocks = list(naturals)
        self.device = next(t.device for n in naturals.values() for t in n)
        self.shapes = [t.shape for b in self.blocks for t in naturals[b]]
        self._own: list[Tensor] = []
        self._twin: list[Tensor] = []
        for block in self.blocks:
            ramps = tuple(_ramp(t) for t in naturals[block])
            for ramp, mixed in zip(ramps, block.family.symmetrize(ramps), strict=True):
                own, partner = ramp.reshape(-1).long(), (2 * mixed - ramp).reshape(-1).long()
                kept = own <= partner
                self._own.append(own[kept])
                self._twin.append(partner[kept])
        self.sizes = [len(own) for own in self._own]
        self.size = sum(self.sizes)

    def flat(self, naturals: Mapping[Block, Natural]) -> Tensor:
        """The numbers of a batch of natural parameters. # shape: (C, size)"""
        tensors = [t for b in self.blocks for t in naturals[b]]
        rows = [t.reshape(len(t), -1) for t in tensors]
        own = zip(rows, self._own, strict=True)
        return torch.cat([r.index_select(1, i.to(r.device)) for r, i in own], 1)

    def covector(self, naturals: Mapping[Block, Natural]) -> Tensor:
        """What a batch of covectors pairs with each number to. # shape: (C, size)"""
        tensors = [t for b in self.blocks for t in naturals[b]]
        parts = []
        for tensor, own, twin in zip(tensors, self._own, self._twin, strict=True):
            rows = tensor.reshape(len(tensor), -1)
            own, twin = own.to(rows.device), twin.to(rows.device)
            once = rows[:, own]
            parts.append(torch.where(own == twin, once, once + rows[:, twin]))
        return torch.cat(parts, 1)

    def unflat(self, vectors: Tensor) -> dict[Block, Natural]:
        """Natural parameters from their numbers. # shape of vectors: (C, size)"""
        tensors: list[Tensor] = []
        pieces = vectors.split(self.sizes, 1)
        for piece, shape, own, twin in zip(pieces, self.shapes, self._own, self._twin, strict=True):
            own, twin = own.to(piece.device), twin.to(piece.device)
            full = piece.new_zeros(len(piece), shape.numel())
            full = full.index_copy(1, twin, piece).index_copy(1, own, piece)
            tensors.append(full.reshape(len(piece), *shape))
        return self.split(tensors)

    def split(self, tensors: Sequence[Tensor]) -> dict[Block, Natural]:
        """A flat list of tensors by block."""
        left = iter(tensors)
        return {b: tuple(next(left) for _ in b.family.natural_event_dims) for b in self.blocks}

    def basis(self, start: int, stop: int) -> dict[Block, Natural]:
        """The directions of some of the numbers, as a batch of natural parameters."""
        eye = torch.eye(self.size, dtype=torch.float64, device=self.device)[start:stop]
        return self.unflat(eye)


def _ramp(tensor: Tensor) -> Tensor:
    return torch.arange(tensor.numel(), dtype=torch.float64).reshape(tensor.shape)
