# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Operations that only move elements: torch, run on numbered elements, gives their index maps.

Each element of the result is one element of a lifted operand, or does not depend on any. So one
table of names serves ``roll`` and ``cat``, ``pad`` and ``diag_embed``: every element of every
operand gets a number, the function is run on the numbers, and what comes out is where each element
came from. Dims that are moved as a whole stay plain axes; the others become index maps, with a 0-1
table where part of the result comes from elsewhere.
"""

from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .. import constants, host
from ..axes import Address, Axis, Gather, Index, common_device
from ..dispatch import OPERATIONS, WholeCall
from ..polynomial import Polynomial, polynomial
from ..template import Template, from_shapes, take_apart
from ..tensor import Call, polynomial_of
from ..terms import Constant, NotPolynomial, Term

#: What each of them keeps, by its torch names. Every operand may be lifted, or constant.
MOVES: dict[str, str] = {
    "cat concat concatenate": "Values one after another along a dim",
    "stack": "Values along a new dim",
    "hstack vstack row_stack dstack column_stack": "Values side by side or behind each other",
    "block_diag": "Values as the blocks of a matrix that is 0 elsewhere",
    "split split_with_sizes chunk tensor_split hsplit vsplit dsplit": "Pieces along a dim",
    "unbind": "The slices along a dim, one by one",
    "roll flip fliplr flipud rot90": "The elements in another order",
    "repeat tile repeat_interleave": "Copies side by side, or of each element",
    "unfold": "Sliding windows along a dim (`F.unfold`: of an image, with zeros around it)",
    "diagonal linalg_diagonal": "The elements whose positions along two dims differ by an offset",
    "diag diagflat diag_embed": "A diagonal of a matrix, or the matrix of a diagonal, any offset",
    "triu tril": "The elements on one side of a diagonal, 0 elsewhere",
    "pad": "The value with a border around it, in all modes",
    "take_along_dim": "Elements along a dim by a constant table, which broadcasts",
    "select_scatter slice_scatter diagonal_scatter": "The value with a part of it replaced",
    "index_put index_copy index_fill scatter masked_scatter": (
        "The value with elements replaced, at constant positions"
    ),
    "atleast_1d atleast_2d atleast_3d meshgrid": "Dims of size 1 in front, or grids of vectors",
    "cartesian_prod combinations": "All tuples of elements, one a row",
    "pixel_shuffle pixel_unshuffle channel_shuffle": "The elements of an image in other channels",
    "fft_fftshift fft_ifftshift": "The two halves of a dim exchanged",
}


class Table(NamedTuple):
    """Positions, and the dims of the result along which they run."""

    positions: Index
    dims: tuple[int, ...]


class Picked(NamedTuple):
    """How one operand enters one result.

    :param operand: the number of the operand.
    :param tables: for each of its dims whose size is not 1, where its elements come from.
    :param mask: ones where the result is an element of this operand; None if it is everywhere.
    :param mask_dims: the dims of the result along which the mask runs.
    """

    operand: int
    tables: tuple[Table, ...]
    mask: Tensor | None
    mask_dims: tuple[int, ...]


class Moved(NamedTuple):
    """One result: its shape, what it takes from each operand, whether anything else is in it."""

    shape: tuple[int, ...]
    picked: tuple[Picked, ...]
    offset: bool


def moved(call: Call) -> tuple[Polynomial, ...]:
    """The results of a call that only moves elements."""
    template, lifted, given = take_apart(call)
    values = [polynomial_of(t) for t in lifted]
    shapes = tuple(tuple(v.shape) for v in values)
    positions = tuple(t for t in given if not _is_floating(t))
    places = tuple(None if not _is_floating(t) else tuple(t.shape) for t in given)
    plan = constants.memo(_plan, positions, template, shapes, places)
    offsets: list[Tensor] | None = []
    if plan is not None and any(m.offset for m in plan):
        offsets = constants.memo(_offsets, tuple(given), template, shapes, lifted[0].device)
    if plan is None or offsets is None:
        raise NotPolynomial(f"`{call.name}` with these arguments does not only move elements")
    results = [_assembled(m, values) for m in plan]
    if offsets:
        pairs = zip(results, offsets, plan, strict=True)
        results = [r + polynomial(o) if m.offset else r for r, o, m in pairs]
    return tuple(results)


def _is_floating(tensor: Tensor) -> bool:
    return tensor.dtype.is_floating_point


def _assembled(plan: Moved, values: list[Polynomial]) -> Polynomial:
    dims = tuple(Axis(size) if size != 1 else None for size in plan.shape)
    total = Polynomial(dims, ())
    for picked in plan.picked:
        value = values[picked.operand]
        renaming: dict[Axis, Address] = {
            axis: _address(table, dims, axis)
            for axis, table in zip(value.out, picked.tables, strict=True)
        }
        terms = [t.renamed(renaming) for t in value.terms]
        if picked.mask is not None:
            where = tuple(_axis(dims, d) for d in picked.mask_dims)
            terms = [t.times(Term(1.0, (Constant(picked.mask, where),), ())) for t in terms]
        total = Polynomial(dims, (*total.terms, *terms))
    fixed = any(not t.dims for p in plan.picked for t in p.tables)
    return total.simplified() if fixed else total


def _axis(dims: tuple[Axis | None, ...], dim: int) -> Axis:
    axis = dims[dim]
    assert axis is not None
    return axis


def _address(table: Table, dims: tuple[Axis | None, ...], axis: Axis) -> Address:
    along = tuple(_axis(dims, d) for d in table.dims)
    if isinstance(table.positions, range) and table.positions == range(axis.size):
        return along[0]
    return Gather(table.positions, along)


def _offsets(*given_and_call: Any) -> list[Tensor] | None:
    """The results where every lifted operand is 0; None if constants do more than stand beside."""
    *given, template, shapes, device = given_and_call
    doubles = [t.double() if _is_floating(t) else t for t in given]
    point = probe_point(sum(prod(s) for s in shapes), device)
    offsets = _run(template, doubles, 0 * point, shapes)
    with torch.no_grad():
        zeros = [torch.zeros_like(t) if _is_floating(t) else t for t in doubles]
        runs = zip(
            offsets,
            _run(template, doubles, point, shapes),
            _run(template, zeros, 0 * point, shapes),
            _run(template, zeros, point, shapes),
            strict=True,
        )
        for own, moved_own, bare, moved_bare in runs:
            error = ((moved_own - own) - (moved_bare - bare)).abs()
            if not host.truth((error <= 1e-9 * (1 + own.abs())).all()):
                return None
    return offsets


def _plan(*given_and_call: Any) -> tuple[Moved, ...] | None:
    """The index maps of a call, or None if it does more than move elements."""
    *positions, template, shapes, places = given_and_call
    plan: tuple[Moved, ...] | None = from_shapes(_index_maps, positions, template, shapes, places)
    return plan


def _index_maps(
    positions: list[Tensor],
    template: Template,
    shapes: tuple[tuple[int, ...], ...],
    places: tuple[tuple[int, ...] | None, ...],
) -> tuple[Moved, ...] | None:
    left = iter(positions)
    device = common_device(positions)
    given = [
        next(left) if p is None else torch.zeros(p, dtype=torch.float64, device=device)
        for p in places
    ]
    sizes = [prod(s) for s in shapes]
    count = sum(sizes)
    numbers = torch.arange(1, count + 1, dtype=torch.float64, device=device)
    base, numbered = (_run(template, given, f, shapes) for f in (0 * numbers, numbers))
    plans = []
    noise = probe_point(count, device)
    probes = _run(template, given, noise, shapes)
    for zero, result, probe in zip(base, numbered, probes, strict=True):
        number = (result - zero).long()
        inside = (number >= 0) & (number <= count)
        picked = torch.where(number > 0, noise[(number - 1).clamp(0, count - 1)], 0.0)
        same = ((probe - zero) - picked).abs() <= 1e-12 * (1 + zero.abs())
        if result.numel() == 0 or not host.settled((inside & same).all()):
            return None
        plans.append(_decoded(number, shapes, sizes, zero, any(p is not None for p in places)))
    return tuple(plans)


def probe_point(count: int, device: torch.device) -> Tensor:
    """A point that is special in no way, the same at each call: sin(1), sin(2), ... times roots."""
    k = torch.arange(1, count + 1, dtype=torch.float64, device=device)
    return torch.sin(k) * k.sqrt().add(1.0).log()


def _run(
    template: Template, given: list[Tensor], flat: Tensor, shapes: tuple[tuple[int, ...], ...]
) -> list[Tensor]:
    pieces = flat.split([prod(s) for s in shapes])
    operands = [p.reshape(s) for p, s in zip(pieces, shapes, strict=True)]
    return [t.double() for t in pytree.tree_leaves(template.filled(operands, given))]


def _decoded(
    number: Tensor,
    shapes: tuple[tuple[int, ...], ...],
    sizes: list[int],
    zero: Tensor,
    floats: bool,
) -> Moved:
    picked = []
    for k, (shape, size) in enumerate(zip(shapes, sizes, strict=True)):
        first = sum(sizes[:k]) + 1
        valid = (number >= first) & (number < first + size)
        if not host.settled(valid.any()):
            continue
        position = torch.where(valid, number - first, -1)
        tables = []
        stride = size
        for extent in shape:
            stride //= extent
            if extent != 1:
                along = torch.where(valid, position // stride % extent, -1)
                tables.append(_table(along, extent))
        whole = host.settled(valid.all())
        mask, dims = (None, ()) if whole else _collapsed_mask(valid)
        picked.append(Picked(k, tuple(tables), mask, dims))
    offset = floats or host.settled((zero != 0).any())
    return Moved(tuple(number.shape), tuple(picked), offset)


def _table(index: Tensor, extent: int) -> Table:
    """An index over the dims along which it runs; -1 stands where anything will do."""
    for dim, size in enumerate(index.shape):
        if size == extent:
            plain = torch.arange(size, device=index.device)
            plain = plain.reshape([-1 if d == dim else 1 for d in range(index.dim())])
            if host.settled(((index == plain) | (index < 0)).all()):
                return Table(range(size), (dim,))
    for dim in range(index.dim()):
        highest = index.amax(dim, keepdim=True)
        if host.settled(((index == highest) | (index < 0)).all()):
            index = highest
    dims = tuple(d for d, size in enumerate(index.shape) if size != 1)
    index = index.squeeze()
    if not dims:
        return Table(int(index), ())
    if len(dims) == 1 and (run := _as_range(index)) is not None:
        return Table(run, dims)
    return Table(index.clamp(min=0).contiguous(), dims)


def _as_range(index: Tensor) -> range | None:
    """The index as a range that runs forwards, if it is one."""
    first, second, last = (int(index[i]) for i in (0, 1, -1))
    step = second - first
    if first < 0 or step < 1 or last != first + step * (len(index) - 1):
        return None
    run = torch.arange(first, last + 1, step, device=index.device)
    return range(first, last + 1, step) if host.settled((index == run).all()) else None


def _collapsed_mask(valid: Tensor) -> tuple[Tensor, tuple[int, ...]]:
    for dim in range(valid.dim()):
        some = valid.any(dim, keepdim=True)
        if host.settled((valid == some).all()):
            valid = some
    dims = tuple(d for d, size in enumerate(valid.shape) if size != 1)
    return valid.squeeze().double().contiguous(), dims


def register_moving(*names: str, keeps: str) -> None:
    """Enter torch functions that only move elements: torch gives their places.

    Whether a call does no more than that is checked at each new call.

    :param names: of the torch functions, as for :func:`~pyro_blr.extend.operation`.
    :param keeps: what they do, in words.
    """
    OPERATIONS.update(dict.fromkeys(names, WholeCall(moved, keeps)))


for _names, _sentence in MOVES.items():
    register_moving(*_names.split(), keeps=_sentence)
