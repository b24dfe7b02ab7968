# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What depends on constants alone is done once: folding, pushing index maps, merging like products.

A sum over rows of a gathered statistic becomes a sum over groups of a constant; constants are
contracted in float64; products of the same statistics become one. What is left costs what the
latents cost, whatever the number of rows.
"""

from dataclasses import dataclass
from math import prod

from torch import Tensor

from . import constants
from .axes import (
    Address,
    Axis,
    Gather,
    all_axes,
    common_device,
    plainly,
    same_address,
)
from .chain_blocks import ChainBlock
from .contraction import Operand, contract, fold, together
from .plan import Mass, Product, Stat
from .segments import scatter
from .terms import Constant


@dataclass(frozen=True, eq=False)
class Expanded:
    """One product of a term's expectation, before folding."""

    number: float
    constants: tuple[Constant, ...]
    stats: tuple[Stat | Mass, ...]


def folded_product(
    term: Expanded, out: tuple[Axis, ...], free: tuple[Tensor, ...], is_mean: bool = False
) -> Product:
    """Fold the constants of a product, and push the statistics' index maps into them.

    :param is_mean: leave a chain's single times as they are.
    """
    fixed = [c for c in term.constants if not c.tensor.requires_grad]
    slots = [
        (next(i for i, t in enumerate(free) if t is c.tensor), c.where)
        for c in term.constants
        if c.tensor.requires_grad
    ]
    outside = {*out, *all_axes(w for _, where in slots for w in where)}
    used = {*outside, *all_axes(w for s in term.stats for w in s.where)}
    folded = fold([(c.tensor, c.where) for c in fixed], used, term.number)
    folded, stats = _push_gathers(folded, [_plain(s) for s in term.stats], outside, is_mean)
    folded = _joined(together(folded), stats)  # fixed positions have become tables of the host
    return Product(folded, tuple(slots), tuple(stats))


def _plain(stat: Stat | Mass) -> Stat | Mass:
    """A statistic whose index maps are axes where they name every element in order."""
    # A vector's element dim has no size here; a log-determinant is addressed by batch dims alone.
    known = tuple(plainly(w, n) for w, n in zip(stat.where, stat.shape, strict=False))
    where = known + stat.where[len(known) :]
    return stat if where == stat.where else stat.at(where)


def _joined(consts: list[Operand], stats: list[Stat | Mass]) -> tuple[Operand, ...]:
    """Multiply constants out where the result is no larger than what it meets anyway."""
    if len(consts) < 2:
        return tuple(consts)
    axes = tuple(dict.fromkeys(a for _, own in consts for a in own))
    size = prod(a.size for a in axes)
    largest = max((prod(s.shape) for s in stats), default=1)
    if size > max(largest, max(t.numel() for t, _ in consts)):
        return tuple(consts)
    return ((contract(consts, axes), axes),)


@dataclass(frozen=True, eq=False)
class _Place:
    """A dim of a statistic that is addressed by an index map."""

    stat: int
    dim: int
    gather: Gather
    size: int


def _push_gathers(
    consts: tuple[Operand, ...], stats: list[Stat | Mass], outside: set[Axis], is_mean: bool
) -> tuple[tuple[Operand, ...], list[Stat | Mass]]:
    """``sum_n c[n] S[i[n]] = sum_p S[p] (sum_{n: i[n]=p} c[n])``: gathers become sums of constants.

    All index maps that share an axis are pushed together; a set of maps that also reaches an axis
    of the result, a free constant or a plainly addressed statistic is left alone.
    """
    places = [
        _Place(i, dim, address, stat.shape[dim])
        for i, stat in enumerate(stats)
        for dim, address in enumerate(stat.where)
        if isinstance(address, Gather) and not (is_mean and _is_a_time(stat, dim, address))
    ]
    plain = {w for s in stats for w in s.where if isinstance(w, Axis)}
    for group in _connected(places):
        axes = all_axes(p.gather for p in group)
        if (outside | plain) & set(axes):
            continue
        distinct, slots = _distinct(group)
        pushed = scatter(consts, [p.gather for p in distinct], [p.size for p in distinct], axes)
        if pushed is None:
            continue
        consts, new_axes = pushed
        for place, slot in zip(group, slots, strict=True):
            stats[place.stat] = _readdress(stats[place.stat], place.dim, new_axes[slot])
    return consts, stats


def _is_a_time(stat: Stat | Mass, dim: int, address: Gather) -> bool:
    """Whether an address is one time of a chain, whose covariances are of times that meet."""
    block = stat.blocks[0]
    is_time = isinstance(block, ChainBlock) and dim == len(block.batch_shape)
    return is_time and isinstance(stat, Stat) and not address.axes


def _distinct(group: list[_Place]) -> tuple[list[_Place], list[int]]:
    """The different index maps of a group, and which of them each place has.

    Fixed positions are kept apart: ``M[0, 0]`` becomes a cell of a matrix, like its neighbours.
    """
    distinct: list[_Place] = []
    slots = []
    for place in group:
        for i, other in enumerate(distinct):
            known = place.gather.axes and place.size == other.size
            if known and same_address(place.gather, other.gather):
                slots.append(i)
                break
        else:
            slots.append(len(distinct))
            distinct.append(place)
    return distinct, slots


def _connected(places: list[_Place]) -> list[list[_Place]]:
    """Places grouped by the axes that their index maps share; fixed positions each alone."""
    groups: list[list[_Place]] = []
    for place in places:
        mine = set(place.gather.axes)
        touching = [g for g in groups if any(mine & set(p.gather.axes) for p in g)]
        groups = [g for g in groups if g not in touching]
        groups.append([*(p for g in touching for p in g), place])
    return groups


def _readdress(stat: Stat | Mass, dim: int, axis: Axis | None) -> Stat | Mass:
    where = list(stat.where)
    where[dim] = axis if axis is not None else Gather(0, ())
    return stat.at(tuple(where))


def merge_into(
    merged: dict[object, tuple[Product, Tensor | None]], product: Product, out: tuple[Axis, ...]
) -> None:
    """Add a product to the like one, if any: same statistics, constants along the same axes."""
    if len(product.constants) > 1:
        merged[object()] = (product, None)
        return
    names = {a: -1 - i for i, a in enumerate(out)}
    stats = sorted(product.stats, key=lambda s: str(s.key))
    signature: list[object] = [
        tuple((slot, _address_names(where, names)) for slot, where in product.free)
    ]
    for s in stats:
        signature.append((s.key, _address_names(s.where, names)))
    tensor, axes = product.constants[0]
    order = sorted(range(len(axes)), key=lambda i: names[axes[i]])
    key = (tuple(signature), tuple(names[axes[i]] for i in order))
    tensor = tensor.permute(order)
    axes = tuple(axes[i] for i in order)
    if key in merged:
        known, total = merged[key]
        merged[key] = (known, tensor if total is None else _sum(total, tensor))
    else:
        merged[key] = (Product(((tensor, axes),), product.free, tuple(stats)), tensor)


def _address_names(where: tuple[Address, ...], names: dict[Axis, int]) -> object:
    result: list[object] = []
    for address in where:
        axes = address.axes if isinstance(address, Gather) else (address,)
        numbers = tuple(names.setdefault(a, len(names)) for a in axes)
        if isinstance(address, Gather):
            index = address.index
            named = constants.key_of(index) if isinstance(index, Tensor) else index
            result.append((named, numbers))
        else:
            result.append(numbers)
    return tuple(result)


def _sum(left: Tensor, right: Tensor) -> Tensor:
    device = common_device((left, right))
    return left.to(device) + right.to(device)


def merged_product(product: Product, constant: Tensor | None) -> Product:
    """A product with the sum of the constants of all its like ones."""
    if constant is None:
        return product
    return Product(((constant.contiguous(), product.constants[0][1]),), product.free, product.stats)
