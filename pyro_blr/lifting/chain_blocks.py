# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian blocks with a block-tridiagonal precision: states along time that meet neighbours alone.

Means and covariances are held of each time, and between a time and the next one. States further
apart are correlated through those between them; that part of the covariance is never asked for, and
a product that needs it raises.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from ..families import MultivariateNormal
from . import constants, host
from .axes import Address, Axis, Gather, all_axes, axes_of, device_of, grid, same_address
from .blocks import Block, Placement
from .terms import Atom, LatentSite


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


def lag(first: Address, second: Address) -> int | None:
    """By how many times the second address is later, if that is -1, 0 or 1 and the same everywhere.

    Reads index tables, if it must.
    """
    if same_address(first, second):
        return 0
    one, other = _line(first), _line(second)
    if one is not None and other is not None:
        by = other[0] - one[0]
        alike = one[1:] == other[1:] and abs(by) <= 1
        return by if alike else None
    tables = [w.index for w in (first, second) if isinstance(w, Gather)]
    if set(axes_of(first)) != set(axes_of(second)):
        return None
    if not all(host.readable(t) for t in tables if isinstance(t, Tensor)):
        return None
    axes, device = all_axes((first, second)), device_of((first, second))
    ahead = grid(second, axes, device) - grid(first, axes, device)
    return next((by for by in (0, 1, -1) if host.settled((ahead == by).all())), None)


def _line(address: Address) -> tuple[int, int, Axis | None] | None:
    """The first position, the step and the axis of an address that is no table."""
    if isinstance(address, Axis):
        return 0, 1, address
    if isinstance(address.index, int):
        return address.index, 0, None
    if isinstance(address.index, range):
        return address.index.start, address.index.step, address.axes[0]
    return None


def before_last(address: Address, length: int) -> Address:
    """The same times among all but the last one: an axis where it names all of these."""
    if isinstance(address, Gather) and address.index == range(length - 1) and address.axes:
        return address.axes[0]
    return address
