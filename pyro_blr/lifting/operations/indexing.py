# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Operations that pick elements: indexing, slicing, splitting. They become index maps."""

from collections.abc import Sequence
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor

from .. import constants, host
from ..axes import Address, Axis, Gather
from ..polynomial import Polynomial
from ..terms import NotPolynomial
from .register import operation
from .shape import flatten

Key = None | int | slice | EllipsisType | Tensor


@operation("__getitem__")
def getitem(value: Polynomial, key: Any) -> Polynomial:
    """Indexing by numbers, slices, ``None``, ellipses, constant tables and constant masks."""
    keys = _normalised(value.ndim, key)
    dims: list[Axis | None] = []
    renaming: dict[Axis, Address] = {}
    shared: list[Axis | None] | None = None
    tensors = [k for k in keys if isinstance(k, Tensor)]
    shape = torch.broadcast_shapes(*(t.shape for t in tensors)) if tensors else torch.Size()
    split = _tables_apart(keys)
    source = iter(value.dims)
    for k in keys:
        if k is None:
            dims.append(None)
            continue
        axis = next(source)
        if isinstance(k, slice):
            dims.append(_slice(axis, k, renaming))
        elif isinstance(k, int):
            _pick(axis, k, renaming)
        else:
            assert isinstance(k, Tensor)
            if shared is None:
                shared = [Axis(s) if s != 1 else None for s in shape]
                if split:
                    dims[:0] = shared
                else:
                    dims.extend(shared)
            _table(axis, k, shared, renaming)
    picked = Polynomial((), value.terms).renamed(renaming).with_dims(dims)
    return picked.simplified() if any(_is_fixed(w) for w in renaming.values()) else picked


def _is_fixed(address: Address) -> bool:
    return isinstance(address, Gather) and not address.axes


def _normalised(ndim: int, key: Any) -> list[Key]:
    """The key with one entry a dim: ellipses spelled out, masks turned into indices."""
    given = list(key) if isinstance(key, tuple) else [key]
    keys: list[Key] = []
    for k in given:
        if isinstance(k, Polynomial):
            raise NotPolynomial("indexing by a latent")
        if isinstance(k, bool):
            raise NotPolynomial("indexing by a bool")
        if isinstance(k, list | range):
            k = torch.as_tensor(list(k), device="cpu")
        if isinstance(k, Tensor) and k.dtype in (torch.bool, torch.uint8):
            keys.extend(constants.memo(host.positions, (k,)))
        elif isinstance(k, Tensor) and k.dim() == 0 and k.device.type == "cpu":
            keys.append(int(k))
        elif isinstance(k, Tensor):
            keys.append(k.long() if k.dtype != torch.long else k)
        elif k is None or isinstance(k, slice | EllipsisType):
            keys.append(k)
        else:
            keys.append(int(k))
    used = sum(k is not None and k is not Ellipsis for k in keys)
    missing: list[Key] = [slice(None)] * (ndim - used)
    places = [i for i, k in enumerate(keys) if k is Ellipsis]
    place = places[0] if places else len(keys)
    keys[place : place + 1] = missing
    return keys


def _tables_apart(keys: list[Key]) -> bool:
    """Torch puts the dims of index tensors first if something stands between them."""
    places = [i for i, k in enumerate(keys) if isinstance(k, Tensor)]
    if not places:
        return False
    between = keys[places[0] : places[-1] + 1]
    return any(k is None or isinstance(k, slice) for k in between)


def _slice(axis: Axis | None, key: slice, renaming: dict[Axis, Address]) -> Axis | None:
    index = range(axis.size if axis else 1)[key]
    if axis is None or len(index) == axis.size:
        if axis is None and len(index) == 0:
            raise NotPolynomial("an empty slice")
        return axis
    if len(index) == 0:
        raise NotPolynomial("an empty slice")
    if len(index) == 1:
        renaming[axis] = Gather(index[0], ())
        return None
    new = Axis(len(index))
    renaming[axis] = Gather(index, (new,))
    return new


def _pick(axis: Axis | None, key: int, renaming: dict[Axis, Address]) -> None:
    size = axis.size if axis else 1
    if not -size <= key < size:
        raise IndexError(f"index {key} is out of bounds for a dim of size {size}")
    if axis:
        renaming[axis] = Gather(key % size, ())


def _table(
    axis: Axis | None, key: Tensor, shared: list[Axis | None], renaming: dict[Axis, Address]
) -> None:
    if axis is None:
        return
    placed: list[Axis | None] = [None] * (len(shared) - key.dim())
    live = [
        (a, j) for j, a in enumerate(shared[len(placed) :]) if a is not None and key.shape[j] != 1
    ]
    if not live:
        renaming[axis] = Gather(constants.memo(_wrapped, (key.reshape(()),), axis.size), ())
        return
    table = key.reshape([a.size for a, _ in live])
    renaming[axis] = Gather(
        constants.memo(_wrapped, (table,), axis.size), tuple(a for a, _ in live)
    )


def _wrapped(index: Tensor, size: int) -> Tensor:
    """Negative positions count from the end, checked once for a constant index."""
    wrapped = torch.where(index < 0, index + size, index)
    on_host = index.device.type == "cpu" and host.readable(index)
    if on_host and bool(((wrapped < 0) | (wrapped >= size)).any()):
        raise IndexError(f"an index is out of bounds for a dim of size {size}")
    return wrapped


@operation("index_select")
def index_select(value: Polynomial, dim: int, index: Tensor) -> Polynomial:
    """The positions of a constant table along a dim."""
    return getitem(value, (slice(None),) * (dim % value.ndim) + (index,))


@operation("select")
def select(value: Polynomial, dim: int, index: int) -> Polynomial:
    """One position along a dim, which is dropped."""
    return getitem(value, (slice(None),) * (dim % value.ndim) + (index,))


@operation("narrow")
def narrow(value: Polynomial, dim: int, start: int, length: int) -> Polynomial:
    """A run of positions along a dim."""
    return getitem(value, (slice(None),) * (dim % value.ndim) + (slice(start, start + length),))


@operation("gather")
def gather(value: Polynomial, dim: int, index: Any, sparse_grad: bool = False) -> Polynomial:
    """``value[index]`` along a dim, the other dims kept in step."""
    if not isinstance(index, Tensor):
        raise NotPolynomial("`gather` by a latent")
    return getitem(value, constants.memo(_gather_key, (index,), dim % value.ndim))


def _gather_key(index: Tensor, dim: int) -> tuple[Tensor, ...]:
    grids = torch.meshgrid(*(torch.arange(n) for n in index.shape), indexing="ij")
    return tuple(index if d == dim else g.to(index.device) for d, g in enumerate(grids))


@operation("take")
def take(value: Polynomial, index: Any) -> Polynomial:
    """Positions in the flattened value."""
    if not isinstance(index, Tensor):
        raise NotPolynomial("`take` by a latent")
    return getitem(flatten(value), index)


@operation("embedding")
def embedding(index: Any, weight: Polynomial, *args: Any, **options: Any) -> Polynomial:
    """Rows of a lifted table, by a constant index."""
    # padding_idx, scale_grad_by_freq and sparse change gradients only; max_norm changes the weight.
    if not isinstance(index, Tensor) or options.get("max_norm") is not None:
        raise NotPolynomial("`embedding` with max_norm")
    return getitem(weight, index)


@operation("flip")
def flip(value: Polynomial, *dims: Any) -> Polynomial:
    """The dims in reversed order."""
    chosen = dims[0] if len(dims) == 1 and isinstance(dims[0], Sequence) else dims
    for dim in chosen:
        index = torch.arange(value.shape[dim] - 1, -1, -1, device="cpu")
        value = index_select(value, dim, index)
    return value


@operation("unbind")
def unbind(value: Polynomial, dim: int = 0) -> tuple[Polynomial, ...]:
    """The slices along a dim, one by one."""
    return tuple(select(value, dim, i) for i in range(value.shape[dim]))


@operation("split", "split_with_sizes")
def split(value: Polynomial, sizes: Any, dim: int = 0) -> tuple[Polynomial, ...]:
    """Pieces along a dim, of one size or of given sizes."""
    total = value.shape[dim]
    if isinstance(sizes, int):
        sizes = [min(sizes, total - start) for start in range(0, total, sizes)]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return tuple(narrow(value, dim, s, n) for s, n in zip(starts, sizes, strict=True))


@operation("chunk")
def chunk(value: Polynomial, chunks: int, dim: int = 0) -> tuple[Polynomial, ...]:
    """At most so many pieces of equal size along a dim (the last may be smaller)."""
    return split(value, -(-value.shape[dim] // chunks), dim)


@operation("diagonal", "diag")
def diagonal(value: Polynomial, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Polynomial:
    """The elements whose positions along two dims differ by ``offset``."""
    if offset or value.ndim < 2:
        raise NotPolynomial("an off-diagonal")
    rows, columns = value.dims[dim1], value.dims[dim2]
    if rows is None or columns is None or rows.size != columns.size:
        raise NotPolynomial("the diagonal of a matrix that is not square")
    renamed = Polynomial((), value.terms).renamed({columns: rows})
    kept = [a for a in value.dims if a is not rows and a is not columns]
    return renamed.with_dims([*kept, rows])
