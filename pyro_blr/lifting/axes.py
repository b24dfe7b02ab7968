# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Named axes and index maps: how a factor of a product addresses the dims of a tensor.

A tensor dim is addressed by an :class:`Axis` (the dim runs along that axis) or by a
:class:`Gather` (the dim is indexed by a table that itself runs along some axes, as in
``b[group]``). Two factors that share an axis run along it together; an axis of a product that is
not among the dims of the expression is summed over. So ``sum`` is the removal of a dim, and costs
nothing.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import constants, host


class Axis:
    """A named axis. Identity is the name: two axes of one size are still different axes.

    :param int size: the number of elements along the axis, at least 2 (dims of size 1 have no
        axis).
    """

    __slots__ = ("size",)

    def __init__(self, size: int) -> None:
        self.size = size

    def __repr__(self) -> str:
        return f"Axis({self.size})"


Index = int | range | Tensor


class Gather:
    """An index map: position ``index[axes]`` of the addressed dim.

    :param index: an ``int`` (no axes), a ``range`` (one axis) or a long tensor with one dim an
        axis.
    :param axes: the axes along which the index runs.
    """

    __slots__ = ("axes", "index")

    def __init__(self, index: Index, axes: tuple[Axis, ...]) -> None:
        self.index = index
        self.axes = axes

    def __repr__(self) -> str:
        return f"Gather({self.index if not isinstance(self.index, Tensor) else '...'}, {self.axes})"


Address = Axis | Gather
Renaming = Mapping[Axis, Address]


_HOST = torch.device("cpu")


def common_device(tensors: Iterable[Tensor]) -> torch.device:
    """Where tensors meet: tables made from shapes alone start on the CPU and follow the data."""
    for tensor in tensors:
        device = tensor.device
        if device.type != "cpu":
            return device
    return _HOST


def device_of(where: Iterable[Address]) -> torch.device:
    """Where the index tables of addresses meet."""
    return common_device(
        w.index for w in where if isinstance(w, Gather) and isinstance(w.index, Tensor)
    )


def on_device(address: Address, device: torch.device) -> Address:
    """The address with its index table on a device."""
    if isinstance(address, Axis) or not isinstance(address.index, Tensor):
        return address
    if address.index.device == device:
        return address
    return Gather(address.index.to(device), address.axes)


def axes_of(address: Address) -> tuple[Axis, ...]:
    """The axes along which an address runs."""
    return address.axes if isinstance(address, Gather) else (address,)


def all_axes(where: Iterable[Address]) -> tuple[Axis, ...]:
    """The axes of several addresses, each once, in order of appearance."""
    return tuple(dict.fromkeys(axis for address in where for axis in axes_of(address)))


def rename(address: Address, renaming: Renaming) -> Address:
    """Replace the axes of an address; an axis replaced by a gather composes the two index maps."""
    if isinstance(address, Axis):
        return renaming.get(address, address)
    if not any(axis in renaming for axis in address.axes):
        return address
    new = [renaming.get(axis, axis) for axis in address.axes]
    plain = _plain(new)
    return _compose(address, new) if plain is None else Gather(address.index, plain)


def _plain(where: Iterable[Address]) -> tuple[Axis, ...] | None:
    """The addresses as axes, if no index map is among them."""
    axes = []
    for address in where:
        if isinstance(address, Gather):
            return None
        axes.append(address)
    return tuple(axes)


def _compose(outer: Gather, inner: list[Address]) -> Gather:
    """``outer.index[inner]``: the index map that follows the inner maps first."""
    if isinstance(outer.index, range):
        (only,) = inner
        assert isinstance(only, Gather)
        if isinstance(only.index, Tensor):
            start, step = outer.index.start, outer.index.step
            return Gather(constants.memo(_affine, (only.index,), start, step), only.axes)
        if isinstance(only.index, int):
            return Gather(outer.index[only.index], only.axes)
        inside = slice(only.index.start, only.index.stop, only.index.step)
        return Gather(outer.index[inside], only.axes)
    assert isinstance(outer.index, Tensor)
    axes = all_axes(inner)
    tables = tuple(a.index for a in inner if isinstance(a, Gather) and isinstance(a.index, Tensor))
    plan = tuple(_recipe(address, axes) for address in inner)
    return Gather(constants.memo(_look_up, (outer.index, *tables), plan), axes)


def _affine(index: Tensor, start: int, step: int) -> Tensor:
    return index * step + start


#: The rule of an index (None: the next table), the places of its axes, the number of axes.
Recipe = tuple[int | range | None, tuple[int, ...], int]


def _recipe(address: Address, axes: tuple[Axis, ...]) -> Recipe:
    """A hashable description of one index."""
    places = tuple(axes.index(a) for a in axes_of(address))
    if isinstance(address, Axis):
        return range(address.size), places, len(axes)
    return (None if isinstance(address.index, Tensor) else address.index), places, len(axes)


def _look_up(table: Tensor, *indices_and_plan: Any) -> Tensor:
    """``table[indices]``, the tables among the indices coming first and the plan last."""
    *tables, plan = indices_and_plan
    device = common_device((table, *tables))
    left = iter(tables)
    recipes: tuple[Recipe, ...] = plan
    grids = [
        spread(next(left) if rule is None else rule, places, count, device)
        for rule, places, count in recipes
    ]
    return _index_first(table.to(device), grids)


def spread(index: Index, places: tuple[int, ...], count: int, device: torch.device) -> Tensor:
    """An index as a long tensor of ``count`` dims whose own dims stand at ``places``."""
    if isinstance(index, range):
        index = torch.arange(index.start, index.stop, index.step, device=device)
    elif isinstance(index, int):
        index = torch.tensor(index, device=device)
    index = index.to(device)
    order = sorted(range(len(places)), key=places.__getitem__)
    index = index.permute(order)
    shape = [1] * count
    for position, size in zip(sorted(places), index.shape, strict=True):
        shape[position] = size
    return index.reshape(shape)


def grid(address: Address, axes: tuple[Axis, ...], device: torch.device) -> Tensor:
    """The positions that an address names, as a tensor that broadcasts over ``axes``."""
    index: Index = range(address.size) if isinstance(address, Axis) else address.index
    places = tuple(axes.index(a) for a in axes_of(address))
    return spread(index, places, len(axes), device)


def same_address(first: Address, second: Address) -> bool:
    """Whether two addresses name the same position everywhere (decided without reading data)."""
    if isinstance(first, Axis) or isinstance(second, Axis):
        return first is second
    if first.axes != second.axes:
        return False
    if isinstance(first.index, Tensor) and isinstance(second.index, Tensor):
        return constants.same_tensor(first.index, second.index)
    return type(first.index) is type(second.index) and first.index == second.index


def is_same_table(first: Address, second: Address) -> bool:
    """Whether two addresses name the same position everywhere; their index tables are compared."""
    if same_address(first, second):
        return True
    if isinstance(first, Axis) or isinstance(second, Axis) or first.axes != second.axes:
        return False
    one, other = first.index, second.index
    if not isinstance(one, Tensor) or not isinstance(other, Tensor) or one.shape != other.shape:
        return False
    return host.settled((one == other).all())


def plainly(address: Address, size: int) -> Address:
    """An index map that names every element of a dim in its own order, as the axis that it is."""
    if isinstance(address, Axis) or len(address.axes) != 1 or address.axes[0].size != size:
        return address
    index = address.index
    if isinstance(index, range):
        return address.axes[0] if index == range(size) else address
    if not isinstance(index, Tensor) or not host.readable(index):
        return address
    order = torch.arange(size, device=index.device)
    return address.axes[0] if host.settled((index == order).all()) else address


def take(tensor: Tensor, where: tuple[Address, ...]) -> tuple[Tensor, tuple[Axis, ...]]:
    """Resolve the index maps of a factor: the tensor along plain axes, and those axes.

    Ranges and integers are views; only index tables copy.
    """
    axes = _plain(where)
    if axes is not None:
        return _diagonal(tensor, axes)
    rest: list[Address] = []
    for address in where:
        if isinstance(address, Axis) or isinstance(address.index, Tensor):
            rest.append(address)
        elif isinstance(address.index, int):
            tensor = tensor.select(len(rest), address.index)
        else:
            tensor = _every(tensor, len(rest), address.index)
            rest.append(address.axes[0])
    plain = _plain(rest)
    return _take_tables(tensor, rest) if plain is None else _diagonal(tensor, plain)


def _every(tensor: Tensor, dim: int, index: range) -> Tensor:
    """The positions of a range along a dim, as a view."""
    if index.step < 1:
        raise ValueError("index ranges run forwards")
    view = tensor.narrow(dim, index.start, index[-1] - index.start + 1)
    return view if index.step == 1 else view.unfold(dim, 1, index.step).squeeze(-1)


def _take_tables(tensor: Tensor, where: list[Address]) -> tuple[Tensor, tuple[Axis, ...]]:
    inner = all_axes(w for w in where if isinstance(w, Gather))
    plain = [(i, w) for i, w in enumerate(where) if isinstance(w, Axis) and w not in inner]
    left = [i for i, _ in plain]
    indexed = [i for i in range(len(where)) if i not in left]
    device = tensor.device if tensor.device.type != "cpu" else device_of(where)
    tensor = tensor.to(device)
    tables = [grid(where[i], inner, device) for i in indexed]
    result = _index_first(tensor.permute(indexed + left), tables)
    return _diagonal(result, inner + tuple(w for _, w in plain))


def _index_first(tensor: Tensor, tables: list[Tensor]) -> Tensor:
    """``tensor[tables]``, by row-major positions in the joined first dims."""
    count = len(tables)
    shape = tensor.shape
    position = tables[0]
    for table, size in zip(tables[1:], shape[1:count], strict=True):
        position = position * size + table
    flat = tensor.reshape(-1, *shape[count:]).index_select(0, position.reshape(-1))
    return flat.reshape(position.shape + shape[count:])


def _diagonal(tensor: Tensor, where: tuple[Axis, ...]) -> tuple[Tensor, tuple[Axis, ...]]:
    """An axis that addresses two dims runs along their diagonal."""
    if len(set(where)) == len(where):
        return tensor, where
    axes = list(where)
    for axis in dict.fromkeys(where):
        while axes.count(axis) > 1:
            i, j = [k for k, a in enumerate(axes) if a is axis][:2]
            tensor = tensor.diagonal(dim1=i, dim2=j)
            axes = [a for k, a in enumerate(axes) if k not in (i, j)] + [axis]
    return tensor, tuple(axes)
