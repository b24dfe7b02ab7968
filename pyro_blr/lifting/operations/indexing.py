# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Operations that pick elements: indexing, slicing, splitting. They become index maps."""

import operator
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...shapes import broadcast_shapes
from .. import constants, host
from ..axes import Address, Axis, Gather
from ..polynomial import Polynomial
from ..terms import Atom, NotPolynomial, Term
from .register import operation
from .shape import flatten

Key = None | int | slice | EllipsisType | Tensor


@operation("__getitem__")
def getitem(value: Polynomial, key: Any) -> Polynomial:
    """Indexing by numbers, slices, ``None``, ellipses, constant tables and constant masks."""
    keys = _normalised(value.shape, key)
    dims: list[Axis | None] = []
    renaming: dict[Axis, Address] = {}
    shared: list[Axis | None] | None = None
    tensors = [k for k in keys if isinstance(k, Tensor)]
    shape = broadcast_shapes(*(t.shape for t in tensors)) if tensors else torch.Size()
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
    if any(axis is not None and axis.size == 0 for axis in dims):
        return Polynomial(dims, ())  # no element, so no term
    picked = Polynomial((), value.terms).renamed(renaming).with_dims(dims)
    if any(isinstance(w, Gather) and isinstance(w.index, range) for w in renaming.values()):
        picked = Polynomial(picked.dims, (t for t in picked.terms if not _is_beside(t)))
    return picked.simplified() if any(_is_fixed(w) for w in renaming.values()) else picked


def _is_beside(term: Term) -> bool:
    """Whether a piece that was put beside others (by ``torch.cat``) has nothing in a slice."""
    return any(
        isinstance(c.where[0], Gather)
        and isinstance(c.where[0].index, range)
        and not c.tensor.requires_grad
        and constants.memo(_is_zero_at, (c.tensor,), c.where[0].index)
        for c in term.constants
        if len(c.where) == 1
    )


def _is_zero_at(tensor: Tensor, index: range) -> bool:
    return host.readable(tensor) and host.truth((tensor[index.start : index.stop] == 0).all())


def _is_fixed(address: Address) -> bool:
    return isinstance(address, Gather) and not address.axes


def _normalised(shape: torch.Size, key: Any) -> list[Key]:
    """The key with one entry a dim: ellipses spelled out, masks turned into indices."""
    given = [_as_key(k) for k in (key if isinstance(key, tuple) else (key,))]
    used = sum(_consumed(k) for k in given)
    if used > len(shape):
        raise IndexError(f"too many indices for a tensor of {len(shape)} dims")
    places = [i for i, k in enumerate(given) if k is Ellipsis]
    place = places[0] if places else len(given)
    given[place : place + 1] = [slice(None)] * (len(shape) - used)
    keys: list[Key] = []
    dim = 0
    for k in given:
        if _is_mask(k):
            assert isinstance(k, Tensor)
            if k.shape != shape[dim : dim + k.dim()]:
                raise IndexError(
                    f"a mask of shape {tuple(k.shape)} does not fit dims of sizes "
                    f"{tuple(shape[dim : dim + k.dim()])}"
                )
            keys.extend(constants.memo(host.positions, (k,)))
        else:
            keys.append(k)
        dim += _consumed(k)
    return keys


def _as_key(key: Any) -> Key:
    if isinstance(key, Polynomial):
        raise NotPolynomial("`__getitem__` by a latent")
    if isinstance(key, list | tuple | range):
        flat = all(type(k) is int for k in key)
        key = constants.memo(_as_table, (), tuple(key)) if flat else torch.as_tensor(key)
    elif isinstance(key, np.ndarray):
        key = torch.as_tensor(key, device="cpu")
    if isinstance(key, bool) or (_is_mask(key) and key.dim() == 0):
        raise NotPolynomial("`__getitem__` by a bool")
    if not isinstance(key, Tensor):
        plain = key is None or isinstance(key, slice | EllipsisType)
        return key if plain else operator.index(key)
    if _is_mask(key):
        return key
    if key.dim() == 0 and key.device.type == "cpu":
        return int(key)
    return key if key.dtype == torch.long else constants.memo(Tensor.long, (key,))


def _as_table(positions: tuple[int, ...]) -> Tensor:
    return torch.tensor(positions, dtype=torch.long, device="cpu")


def _is_mask(key: Any) -> bool:
    return isinstance(key, Tensor) and key.dtype in (torch.bool, torch.uint8)


def _consumed(key: Key) -> int:
    """The number of dims that one entry of a key picks from."""
    if key is None or key is Ellipsis:
        return 0
    return key.dim() if _is_mask(key) else 1  # type: ignore[union-attr]


def _tables_apart(keys: list[Key]) -> bool:
    """Torch puts the dims of index tensors first if something stands between them."""
    places = [i for i, k in enumerate(keys) if isinstance(k, Tensor) and k.dim()]
    if not places:
        return False
    between = keys[places[0] : places[-1] + 1]
    return any(k is None or isinstance(k, slice) for k in between)


def _slice(axis: Axis | None, key: slice, renaming: dict[Axis, Address]) -> Axis | None:
    index = range(axis.size if axis else 1)[key]
    if len(index) == 0:
        return Axis(0)
    if axis is None or len(index) == axis.size:
        return axis
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
        constants.memo(_wrapped, (key,), 1)  # for its check alone
        return
    placed: list[Axis | None] = [None] * (len(shared) - key.dim())
    live = [
        (a, j) for j, a in enumerate(shared[len(placed) :]) if a is not None and key.shape[j] != 1
    ]
    if not live:
        renaming[axis] = Gather(constants.memo(_wrapped, (key.reshape(()),), axis.size), ())
        return
    table = key.reshape([a.size for a, _ in live])
    address = Gather(constants.memo(_wrapped, (table,), axis.size), tuple(a for a, _ in live))
    in_order = len(live) == 1 and constants.memo(_is_in_order, (table,), axis.size)
    renaming[axis] = live[0][0] if in_order else address  # a slice that `Vindex` spells as a table


def _wrapped(index: Tensor, size: int) -> Tensor:
    """Negative positions count from the end, checked once for a constant index."""
    wrapped = torch.where(index < 0, index + size, index)
    on_host = index.device.type == "cpu" and host.readable(index)
    if on_host and bool(((wrapped < 0) | (wrapped >= size)).any()):
        raise IndexError(f"an index is out of bounds for a dim of size {size}")
    return wrapped


def _is_in_order(table: Tensor, size: int) -> bool:
    """Whether a table is 0 ... size - 1."""
    if len(table) != size or not host.readable(table):
        return False
    return host.settled((table == torch.arange(size, device=table.device)).all())


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
    # max_norm changes the weight.
    if not isinstance(index, Tensor) or options.get("max_norm") is not None:
        raise NotPolynomial("`embedding` with max_norm")
    return getitem(weight, index)


@operation("one_hot")
def one_hot(value: Polynomial, num_classes: int = -1) -> Polynomial:
    """The indicators of a class's values, along a last dim."""
    atom = _class_of(value)
    count = len(atom.site.levels)
    if num_classes != count or atom.site.levels != tuple(range(count)):
        raise NotPolynomial("`one_hot` of other values than 0 ... K - 1")
    axis = Axis(count) if count > 1 else None
    where = (*atom.where, axis or Gather(0, ()))
    indicator = Atom(atom.site, "is", 1, where)
    return Polynomial((*value.dims, axis), (Term(1.0, (), (indicator,)),))


def _class_of(value: Polynomial) -> Atom:
    """The element of a discrete latent that a value is, and no more."""
    (term,) = value.terms if len(value.terms) == 1 else (None,)
    plain = term is not None and len(term.atoms) == 1 and term.number == 1.0
    if term is None or not plain or term.constants or term.exponentials:
        raise NotPolynomial("`one_hot` of a function of classes")
    (atom,) = term.atoms
    if not atom.site.is_discrete or atom.site.event_dim or atom.kind != "power" or atom.power != 1:
        raise NotPolynomial("`one_hot` of what is no class")
    return atom


def diagonal_of(value: Polynomial, first: int, second: int) -> Polynomial:
    """The elements at equal positions of two dims, as a last dim."""
    first, second = first % value.ndim, second % value.ndim
    size = min(value.shape[first], value.shape[second])
    value = narrow(narrow(value, first, 0, size), second, 0, size)
    along, gone = value.dims[first], value.dims[second]
    terms = value.terms
    if along is not None and gone is not None:
        terms = Polynomial((), terms).renamed({gone: along}).terms
    kept = [a for d, a in enumerate(value.dims) if d not in (first, second)]
    return Polynomial([*kept, along], terms)
