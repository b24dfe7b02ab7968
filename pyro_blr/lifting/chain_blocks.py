# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian blocks with a block-tridiagonal precision: states along time that meet neighbours alone.

Means and covariances are held of each time, and between a time and the next one. States further
apart are correlated through those between them; that part of the covariance is never asked for, and
a product that needs it raises.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..families import MultivariateNormal
from . import constants, host
from .axes import Address, Axis, Gather, all_axes, axes_of, device_of, grid, same_address, take
from .blocks import Block, Placement
from .terms import Atom, Constant, LatentSite


@dataclass(frozen=True)
class Times:
    """Where a site lies in time.

    :param dim: its dim that runs along time; None of a site at one time.
    :param start: the time of its first element.
    """

    dim: int | None
    start: int = 0


@dataclass(frozen=True, eq=False)
class ChainBlock(Block):
    """A Gaussian block whose precision is block-tridiagonal along time.

    A site's placement has its batch dims, and its offset among the numbers of one time; ``times``
    says at which times it has elements. The block's event has two dims, time and these numbers.

    :param int length: T, the number of times.
    :param int width: D, the numbers of one time.
    """

    times: Mapping[str, Times] = field(kw_only=True)
    length: int = field(kw_only=True)
    width: int = field(kw_only=True)

    def span(self, site: LatentSite) -> int:
        return self.width

    def event_dims(self, site: LatentSite) -> tuple[int, ...]:
        dims, time = super().event_dims(site), self.times[site.name].dim
        return tuple(d for d in dims if d != time)

    def time_of(self, atom: Atom) -> Address:
        """The address of an atom along the block's times."""
        own = self.times[atom.site.name]
        if own.dim is None:
            return Gather(own.start, ())
        where = atom.where[own.dim]
        if own.start == 0:
            return where
        index = range(where.size) if isinstance(where, Axis) else where.index
        if isinstance(index, range):
            moved = range(index.start + own.start, index.stop + own.start, index.step)
            return Gather(moved, axes_of(where))
        if isinstance(index, int):
            return Gather(index + own.start, ())
        return Gather(constants.memo(_later, (index,), own.start), axes_of(where))

    def unit(self, site: LatentSite) -> Block:
        """A site's marginal at each of its times, as a block of its own."""
        own, placement = self.times[site.name], self.placements[site.name]
        dims = placement.batch_dims if own.dim is None else (*placement.batch_dims, own.dim)
        shape = tuple(site.shape[d] for d in dims)
        places = {site.name: Placement(dims, placement.offset)}
        return Block(self.name, MultivariateNormal(), (site,), shape, self.width, places)

    def part(self, site: LatentSite, value: Tensor, dims: int = 1) -> Tensor:
        """A tensor of all times at those of a site.

        :param value: # shape: (*sample, *batch, T, *numbers)
        :param dims: of the numbers of one time.
        :returns: without the dim of time for a site at one time.
        """
        own = self.times[site.name]
        if own.dim is None:
            return value.select(-1 - dims, own.start)
        return value.narrow(-1 - dims, own.start, site.shape[own.dim])


def _later(index: Tensor, start: int) -> Tensor:
    return index + start


def meeting(
    first: Address, second: Address, length: int, factors: Iterable[Constant] = ()
) -> tuple[int, Address] | None:
    """By how many times the second of two addresses is later, -1, 0 or 1, and the earlier time.

    None if that is not the same everywhere; where constants that they are multiplied with are 0
    does not count (``torch.cat([z0, z[:-1]])`` is a sum of both, each times ones and zeros). Index
    tables are read if they must be.

    :param length: T; the earlier one of two different times is an address among the first T - 1.
    """
    by = _lag(first, second)
    if by is None:
        return _live_meeting(first, second, factors)
    earlier = first if by >= 0 else second
    return by, before_last(earlier, length) if by else earlier


def _lag(first: Address, second: Address) -> int | None:
    """By how many times the second is later, if that is -1, 0 or 1 and plain to see."""
    if same_address(first, second):
        return 0
    one, other = _line(first), _line(second)
    if one is None or other is None or one[1:] != other[1:] or abs(other[0] - one[0]) > 1:
        return None
    return other[0] - one[0]


def _line(address: Address) -> tuple[int, int, Axis | None] | None:
    """The first position, the step and the axis of an address that is no table."""
    if isinstance(address, Axis):
        return 0, 1, address
    if isinstance(address.index, int):
        return address.index, 0, None
    if isinstance(address.index, range):
        return address.index.start, address.index.step, address.axes[0]
    return None


def _live_meeting(
    first: Address, second: Address, factors: Iterable[Constant]
) -> tuple[int, Address] | None:
    """The same from tables of both addresses, where no constant is 0."""
    ends = set(axes_of(first)), set(axes_of(second))
    tables = [w.index for w in (first, second) if isinstance(w, Gather)]
    are_readable = all(host.readable(t) for t in tables if isinstance(t, Tensor))
    if not (ends[0] <= ends[1] or ends[1] <= ends[0]) or not are_readable:
        return None
    axes, device = all_axes((first, second)), device_of((first, second))
    times = [grid(w, axes, device).expand([a.size for a in axes]) for w in (first, second)]
    live = _live(axes, factors, device)
    ahead = times[1] - times[0]
    for by in (0, 1, -1):
        if host.settled(((ahead == by) | ~live).all()):
            earlier = times[0] if by >= 0 else times[1]
            return by, Gather(torch.where(live, earlier, 0), axes)
    return None


def _live(axes: tuple[Axis, ...], factors: Iterable[Constant], device: torch.device) -> Tensor:
    """Where along some axes no constant is 0. # shape: the sizes of the axes"""
    live = torch.ones([a.size for a in axes], dtype=torch.bool, device=device)
    for factor in factors:
        tensor = factor.tensor
        if set(axes).isdisjoint(all_axes(factor.where)) or not host.readable(tensor):
            continue
        value, own = take(tensor.detach(), factor.where)
        there = value != 0
        for place in reversed(range(len(own))):
            if own[place] not in axes:
                there = there.any(place)
        kept = [a for a in own if a in axes]
        there = there.permute([kept.index(a) for a in axes if a in kept])
        live = live & there.reshape([a.size if a in kept else 1 for a in axes]).to(device)
    return live


def before_last(address: Address, length: int) -> Address:
    """The same times among all but the last one: an axis where it names all of these."""
    if isinstance(address, Gather) and address.index == range(length - 1) and address.axes:
        return address.axes[0]
    return address
