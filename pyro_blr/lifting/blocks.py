# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Blocks of q: which independent unit of the guide holds which elements of which site.

A block is one exponential-family variable, batched over the dims along which its elements are
independent. A site is a slice of a block: some of its dims are batch dims of the block, the others
are laid out, row-major from an offset, along the block's one event dim.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch

from ..families import (
    ExponentialFamily,
    FixedScaleNormal,
    NormalGamma,
    NormalInverseGamma,
    NormalWishart,
)
from ..html_table import html_table
from .axes import Address, Gather, all_axes, axes_of, device_of, grid
from .terms import Atom, LatentSite


@dataclass(frozen=True)
class Placement:
    """Where a site lies in its block.

    :param tuple batch_dims: the site's dims that are the block's batch dims, in the block's order.
    :param int offset: the position of the site's first element along the block's event dim.
    """

    batch_dims: tuple[int, ...]
    offset: int = 0


@dataclass(frozen=True, eq=False)
class Block:
    """One independent unit of q.

    :param str name: the site's name, or the names of the merged sites joined by ``+``.
    :param family: its exponential family.
    :param sites: the sites that it holds.
    :param tuple batch_shape: the dims along which its elements are independent.
    :param int event_size: the length of the event dim; ``None`` where the family has scalar events.
    :param placements: where each site lies, by name.
    :param int row_dims: how many of the last batch dims share one covariance, that is never
        expanded along them.
    """

    name: str
    family: ExponentialFamily
    sites: tuple[LatentSite, ...]
    batch_shape: tuple[int, ...]
    event_size: int | None
    placements: Mapping[str, Placement]
    row_dims: int = 0

    def _repr_html_(self) -> str:
        rows = [
            ("family", self.family.name),
            *((s.name, f"site of shape {tuple(s.shape)}") for s in self.sites),
            ("independent along", str(tuple(self.batch_shape))),
            ("numbers of each", str(self.event_size or 1)),
        ]
        return html_table(f"Block {self.name}", (), rows)

    @property
    def form(self) -> tuple[object, ...]:
        """What makes two blocks the same to a guide."""
        return self.name, self.family, self.batch_shape, self.event_size, self.row_dims

    @property
    def numel(self) -> int:
        """How many numbers a value has."""
        return prod(self.batch_shape) * (self.event_size or 1)

    @property
    def gaussian(self) -> bool:
        """Whether the block is Gaussian."""
        return self.sites[0].gaussian and not self.is_joint

    @property
    def is_joint(self) -> bool:
        """Whether it is a Gaussian whose precision is its last site."""
        return isinstance(self.family, NormalGamma | NormalInverseGamma | NormalWishart)

    @property
    def scale(self) -> LatentSite:
        """The precision (or variance) of a joint block."""
        return self.sites[-1]

    @property
    def own_shape(self) -> tuple[int, ...]:
        """The batch dims along which covariances differ."""
        return self.batch_shape[: len(self.batch_shape) - self.row_dims]

    @property
    def location_size(self) -> int:
        """The length of the Gaussian part of a joint block's event dim."""
        return self.placements[self.scale.name].offset

    def event_dims(self, site: LatentSite) -> tuple[int, ...]:
        """The dims of a site that lie along the block's event dim."""
        batch = self.placements[site.name].batch_dims
        return tuple(d for d in range(len(site.shape)) if d not in batch)

    def event_slice(self, site: LatentSite) -> slice:
        """The slice of the block's event dim that a site fills."""
        start = self.placements[site.name].offset
        size = 1
        for d in self.event_dims(site):
            size *= site.shape[d]
        return slice(start, start + size)

    def span(self, site: LatentSite) -> int | None:
        """The length of what a site's placement is an offset in: the event dim, or a part of it."""
        return self.location_size if self.is_joint else self.event_size

    def batch_of(self, atom: Atom) -> tuple[Address, ...]:
        """The addresses of an atom along the block's batch dims."""
        return tuple(atom.where[d] for d in self.placements[atom.site.name].batch_dims)

    def place(self, atom: Atom) -> tuple[tuple[Address, ...], Address | None]:
        """The addresses of an atom along the block's batch dims and along its event dim."""
        placement = self.placements[atom.site.name]
        batch = self.batch_of(atom)
        if self.event_size is None:
            return batch, None
        dims = self.event_dims(atom.site)
        where = [atom.where[d] for d in dims]
        sizes = tuple(atom.site.shape[d] for d in dims)
        whole = placement.offset == 0 and sizes == (self.span(atom.site),)
        return batch, where[0] if whole else _ravel(where, sizes, placement.offset)


def has_fixed_scale(block: Block) -> bool:
    """Whether it is Gaussian with a width that no message moves."""
    return isinstance(block.family, FixedScaleNormal)


def _ravel(where: list[Address], sizes: tuple[int, ...], offset: int) -> Address:
    """The row-major position of an element, as one address along the event dim."""
    fixed = [w.index for w in where if isinstance(w, Gather) and isinstance(w.index, int)]
    if len(fixed) == len(where):
        position = 0
        for index, size in zip(fixed, sizes, strict=True):
            position = position * size + index
        return Gather(offset + position, ())
    moving = [w for w, s in zip(where, sizes, strict=True) if s != 1]
    if len(moving) == 1:
        (only,) = moving
        moved = only.index if isinstance(only, Gather) else range(only.size)
        if isinstance(moved, range):
            shifted = range(moved.start + offset, moved.stop + offset, moved.step)
            return Gather(shifted, axes_of(only))
    axes = all_axes(where)
    device = device_of(where)
    position_table = torch.zeros((), dtype=torch.long, device=device)
    for address, size in zip(where, sizes, strict=True):
        position_table = position_table * size + grid(address, axes, device)
    table = (position_table + offset).expand([a.size for a in axes])
    return Gather(table, axes)
