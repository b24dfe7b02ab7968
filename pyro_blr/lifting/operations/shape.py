# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Operations that move, add or drop dims."""

from collections.abc import Sequence
from functools import lru_cache
from math import prod
from typing import Any

import torch
from torch import Tensor

from ..axes import Address, Axis, Gather
from ..polynomial import Polynomial
from ..terms import NotPolynomial
from .register import operation


def ints(args: tuple[Any, ...]) -> tuple[int, ...]:
    """The sizes or dims given one by one or as one sequence."""
    if len(args) == 1 and isinstance(args[0], Sequence):
        args = tuple(args[0])
    return tuple(int(a) for a in args)


@operation("unsqueeze")
def unsqueeze(value: Polynomial, dim: int) -> Polynomial:
    """A new dim of size 1."""
    dims = list(value.dims)
    dims.insert(dim % (value.ndim + 1), None)
    return value.with_dims(dims)


@operation("squeeze")
def squeeze(value: Polynomial, dim: Any = None) -> Polynomial:
    """Without the dims of size 1, or without those named."""
    chosen = range(value.ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    gone = {d % value.ndim for d in chosen} if value.ndim else set()
    return value.with_dims(a for i, a in enumerate(value.dims) if a or i not in gone)


@operation("transpose", "swapaxes", "swapdims")
def transpose(value: Polynomial, dim0: int, dim1: int) -> Polynomial:
    """Two dims exchanged."""
    dims = list(value.dims)
    dims[dim0], dims[dim1] = dims[dim1], dims[dim0]
    return value.with_dims(dims)


@operation("t", "t_all")
def reverse_dims(value: Polynomial) -> Polynomial:
    """The dims in reversed order."""
    return value.with_dims(reversed(value.dims))


@operation("mT", "adjoint")
def matrix_transpose(value: Polynomial) -> Polynomial:
    """The last two dims exchanged."""
    return transpose(value, -1, -2)


@operation("permute")
def permute(value: Polynomial, *dims: Any) -> Polynomial:
    """The dims in a given order."""
    return value.with_dims(value.dims[d] for d in ints(dims))


@operation("movedim", "moveaxis")
def movedim(value: Polynomial, source: Any, destination: Any) -> Polynomial:
    """Some dims moved to other places, the rest in their order."""
    sources = (source,) if isinstance(source, int) else tuple(source)
    places = (destination,) if isinstance(destination, int) else tuple(destination)
    order = _moved(value.ndim, sources, places)
    return value.with_dims(value.dims[d] for d in order)


def _moved(ndim: int, sources: Sequence[int], places: Sequence[int]) -> list[int]:
    left = [d for d in range(ndim) if d not in {s % ndim for s in sources}]
    for source, place in sorted(zip(sources, places, strict=True), key=lambda p: p[1] % ndim):
        left.insert(place % ndim, source % ndim)
    return left


@operation("expand", "expand_copy", "broadcast_to")
def expand(value: Polynomial, *shape: Any) -> Polynomial:
    """Broadcast to a shape; -1 keeps a dim's size."""
    sizes = ints(shape)
    own = (1,) * (len(sizes) - value.ndim) + tuple(value.shape)
    if any(s not in (1, -1) and o not in (1, s) for s, o in zip(sizes, own, strict=True)):
        raise ValueError(f"cannot expand {tuple(value.shape)} to {sizes}")
    return value.expand_to(sizes)


@operation("expand_as")
def expand_as(value: Polynomial, other: Any) -> Polynomial:
    """Broadcast to another tensor's shape."""
    return value.expand_to(tuple(other.shape))


@operation("reshape", "view", "_unsafe_view")
def reshape(value: Polynomial, *shape: Any) -> Polynomial:
    """The same elements, row-major, in another shape."""
    if len(shape) == 1 and isinstance(shape[0], torch.dtype):
        raise NotPolynomial("`view` as another dtype")
    sizes = list(ints(shape))
    total = prod(value.shape)
    if -1 in sizes:
        sizes[sizes.index(-1)] = total // max(1, -prod(sizes))
    return _regroup(value, sizes)


@operation("view_as", "reshape_as")
def view_as(value: Polynomial, other: Any) -> Polynomial:
    """The same elements, row-major, in another tensor's shape."""
    return _regroup(value, list(other.shape))


@operation("flatten", "ravel")
def flatten(value: Polynomial, start_dim: int = 0, end_dim: int = -1) -> Polynomial:
    """A run of dims joined into one."""
    if value.ndim == 0:
        return unsqueeze(value, 0)
    start, end = start_dim % value.ndim, end_dim % value.ndim
    shape = list(value.shape)
    return _regroup(value, [*shape[:start], prod(shape[start : end + 1]), *shape[end + 1 :]])


@operation("unflatten")
def unflatten(value: Polynomial, dim: int, sizes: Sequence[int]) -> Polynomial:
    """One dim split into several."""
    dim %= value.ndim
    shape = list(value.shape)
    new = list(sizes)
    if -1 in new:
        new[new.index(-1)] = shape[dim] // max(1, -prod(new))
    return _regroup(value, [*shape[:dim], *new, *shape[dim + 1 :]])


def _regroup(value: Polynomial, sizes: list[int]) -> Polynomial:
    """Split and join dims, row-major: each joined group of dims gets index maps of its own."""
    old = [a for a in value.dims if a]
    new = [Axis(s) if s != 1 else None for s in sizes]
    targets = [a for a in new if a]
    value = value.with_dims(value.dims)
    renaming: dict[Axis, Address] = {}
    i = j = 0
    while i < len(old) or j < len(targets):
        left, right = [old[i]], [targets[j]]
        i, j = i + 1, j + 1
        while prod(a.size for a in left) != prod(a.size for a in right):
            if prod(a.size for a in left) < prod(a.size for a in right):
                left.append(old[i])
                i += 1
            else:
                right.append(targets[j])
                j += 1
        renaming.update(_group(left, right))
    renamed = Polynomial((), value.terms).renamed(renaming)
    return renamed.with_dims(new)


def _group(old: list[Axis], new: list[Axis]) -> dict[Axis, Address]:
    if len(old) == len(new) == 1:
        return {old[0]: new[0]}
    tables = _unravel(tuple(a.size for a in old), tuple(a.size for a in new))
    return {axis: Gather(table, tuple(new)) for axis, table in zip(old, tables, strict=True)}


@lru_cache(maxsize=256)
def _unravel(old: tuple[int, ...], new: tuple[int, ...]) -> tuple[Tensor, ...]:
    """For each old dim, its index at every position of the new dims. # shape: new"""
    position = torch.arange(prod(new), device="cpu").reshape(new)
    tables = []
    for size in reversed(old):
        tables.append((position % size).contiguous())
        position = position // size
    return tuple(reversed(tables))
