# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where two addresses of a block's batch name the same element: elsewhere they are independent."""

from typing import TypeGuard

from torch import Tensor

from . import host
from .axes import Address, Axis, Gather, all_axes, axes_of, device_of, grid, rename, same_address
from .terms import Constant


def coincidence(
    first: tuple[Address, ...], second: tuple[Address, ...], out: tuple[Axis, ...]
) -> tuple[tuple[Constant, ...], dict[Axis, Address]]:
    """Restrict a product to where two batch addresses coincide: contracted axes, or 0-1 tables.

    The dims are equations between addresses, solved one after another: each sees what those before
    it have put in place of an axis (``z[a, b] z[b, a]`` needs ``a = b`` once, not a swap). An axis
    that the other side runs along itself (``z[a] z[perm[a]]``: fixed points) takes a table.

    :returns: the tables, and what takes the place of contracted axes, which it does not run along.
    """
    tables: list[Constant] = []
    solved: dict[Axis, Address] = {}
    for x, y in zip(first, second, strict=True):
        x, y = rename(x, solved), rename(y, solved)
        if same_address(x, y):
            continue
        if _may_become(y, x, out):
            solved = _extended(solved, y, x)
        elif _may_become(x, y, out):
            solved = _extended(solved, x, y)
        else:
            axes = all_axes((x, y))
            device = device_of((x, y))
            table = grid(x, axes, device) == grid(y, axes, device)
            tables.append(Constant(table.expand([a.size for a in axes]).double(), axes))
    return tuple(t.renamed(solved) for t in tables), solved


def same_everywhere(first: Address, second: Address) -> bool:
    """Whether two addresses name the same element wherever they run; reads tables, if it must.

    An index table that the model makes twice is not recognised by its memory.
    """
    if same_address(first, second):
        return True
    pair = (first, second)
    tables = [w.index for w in pair if isinstance(w, Gather) and isinstance(w.index, Tensor)]
    if set(axes_of(first)) != set(axes_of(second)) or not all(map(host.readable, tables)):
        return False
    axes, device = all_axes(pair), device_of(pair)
    return host.settled((grid(first, axes, device) == grid(second, axes, device)).all())


def _may_become(axis: Address, other: Address, out: tuple[Axis, ...]) -> TypeGuard[Axis]:
    """Whether an address is a contracted axis that may be replaced by another address."""
    return isinstance(axis, Axis) and axis not in out and axis not in axes_of(other)


def _extended(solved: dict[Axis, Address], axis: Axis, other: Address) -> dict[Axis, Address]:
    return {a: rename(w, {axis: other}) for a, w in solved.items()} | {axis: other}
