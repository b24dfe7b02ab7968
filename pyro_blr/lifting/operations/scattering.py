# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Sums of elements at constant positions: sparse matrices, ``index_add``, sums over segments.

An entry ``(row, column, weight)`` adds ``weight * value[column]`` to a row of the result. Rows are
padded to the longest one: with at most K entries a row the result is a sum over K gathers,

    result[r] = sum_k weight[r, k] value[column[r, k]],

which takes ``rows * K`` numbers and no matrix of rows times columns.
"""

from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import constants, host
from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from .indexing import getitem, narrow
from .register import operation
from .shape import flatten, reshape, transpose

#: The bytes that the padded rows may take: twenty million entries of 8 bytes, twice.
LIMIT = 2**28


def is_sparse(value: Any) -> bool:
    """Whether a constant is a sparse matrix."""
    return isinstance(value, Tensor) and value.layout != torch.strided


def sparse_product(matrix: Any, value: Polynomial) -> Polynomial:
    """A constant sparse matrix times a vector or a matrix."""
    if matrix.dim() != 2 or value.ndim > 2:
        raise NotPolynomial("`matmul` with sparse matrices in a batch")
    count, width = matrix.shape
    if value.ndim == 0 or value.shape[0] != width:
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({count}x{width} and {tuple(value.shape)})"
        )
    rows, columns, weights = _entries(matrix)
    return sum_at(value, rows, count, "matmul", columns, weights)


def _entries(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The rows, columns and values of a sparse matrix; entries of one place add up."""
    if matrix.layout == torch.sparse_coo:
        rows, columns = matrix._indices()
        return rows, columns, matrix._values()
    if matrix.layout == torch.sparse_csr:
        rows = constants.memo(_spelled_out, (matrix.crow_indices(), matrix.col_indices()))
        return rows, matrix.col_indices(), matrix.values()
    if matrix.layout == torch.sparse_csc:
        columns = constants.memo(_spelled_out, (matrix.ccol_indices(), matrix.row_indices()))
        return matrix.row_indices(), columns, matrix.values()
    raise NotPolynomial(f"`matmul` with a matrix of layout {matrix.layout}")


def _spelled_out(ends: Tensor, entries: Tensor) -> Tensor:
    """The row of each entry, from where each row ends."""
    places = torch.arange(len(entries), device=ends.device)
    return torch.searchsorted(ends[1:].contiguous(), places, right=True)


def sum_at(
    value: Polynomial,
    rows: Tensor,
    count: int,
    name: str,
    columns: Tensor | None = None,
    weights: Tensor | None = None,
) -> Polynomial:
    """``result[r] = sum of weights[e] value[columns[e]] with rows[e] = r`` along the first dim.

    :param columns: every element in turn, if they are not given.
    :param weights: ones, if they are not given.
    """
    given = tuple(t for t in (columns, weights) if t is not None)
    present = (columns is not None, weights is not None)
    padded = constants.memo(_padded, (rows, *given), count, present)
    if isinstance(padded, str):
        raise NotPolynomial(f"`{name}` {padded}")
    table, factors = padded
    picked = getitem(value, table)
    weighted: Polynomial = picked * factors.reshape(*factors.shape, *(1,) * (value.ndim - 1))
    return weighted.sum((1,))


def _padded(rows: Tensor, *others: Any) -> tuple[Tensor, Tensor] | str:
    """The entries of each row side by side, and their weights. # shape: (count, K) both"""
    *given, count, (has_columns, has_weights) = others
    left = iter(given)
    rows, entries = rows.long(), len(rows)
    columns = next(left).long() if has_columns else torch.arange(entries, device=rows.device)
    ones = torch.ones(entries, dtype=torch.float64, device=rows.device)
    weights = next(left) if has_weights else ones
    if entries and not host.truth((rows >= 0).all() & (rows < count).all()):
        raise IndexError(f"an index is out of bounds for a dim of size {count}")
    order = torch.argsort(rows, stable=True)
    rows, columns, weights = rows[order], columns[order], weights[order]
    lengths = torch.bincount(rows, minlength=count)
    longest = max(1, int(host.number(lengths.max()))) if count else 1
    if 16 * count * longest > LIMIT:
        return (
            f"with {longest} entries in one of {count} rows would take {16 * count * longest:.1e} "
            f"bytes; at most {LIMIT:.1e} are taken"
        )
    place = torch.arange(entries, device=rows.device) - (lengths.cumsum(0) - lengths)[rows]
    table = torch.zeros(count, longest, dtype=torch.long, device=rows.device)
    factors = torch.zeros(count, longest, dtype=weights.dtype, device=rows.device)
    return table.index_put((rows, place), columns), factors.index_put((rows, place), weights)


@operation("index_add")
def index_add(
    value: Numeric, dim: int, index: Any, source: Numeric, *, alpha: float = 1
) -> Polynomial:
    """The value with slices of another added to it, at constant positions along a dim."""
    start, added = polynomial(value), polynomial(source)
    if not isinstance(index, Tensor):
        raise NotPolynomial("`index_add` at positions that depend on a latent")
    if start.ndim == 0:
        raise NotPolynomial("`index_add` to a scalar")
    dim %= start.ndim
    first = transpose(added * alpha, 0, dim)
    summed = sum_at(first, index.reshape(-1), start.shape[dim], "index_add")
    return start + transpose(summed, 0, dim)


@operation("scatter_add")
def scatter_add(value: Numeric, dim: int, index: Any, src: Numeric) -> Polynomial:
    """The value with elements of another added to it, at constant positions along a dim."""
    start, added = polynomial(value), polynomial(src)
    if not isinstance(index, Tensor):
        raise NotPolynomial("`scatter_add` at positions that depend on a latent")
    if start.ndim == 0:
        raise NotPolynomial("`scatter_add` to a scalar")
    for d, length in enumerate(index.shape):
        added = narrow(added, d, 0, length)
    rows = constants.memo(_flat_positions, (index,), tuple(start.shape), dim % start.ndim)
    summed = sum_at(flatten(added), rows, prod(start.shape), "scatter_add")
    return start + reshape(summed, *start.shape)


def _flat_positions(index: Tensor, shape: tuple[int, ...], dim: int) -> Tensor:
    """Where in the flattened result each element goes, row-major in the index's shape."""
    size = shape[dim]
    if index.numel() and not host.truth((index >= 0).all() & (index < size).all()):
        raise IndexError(f"an index is out of bounds for a dim of size {size}")
    numbers = torch.arange(prod(shape), device=index.device).reshape(shape)
    for d, length in enumerate(index.shape):
        if d != dim:
            numbers = numbers.narrow(d, 0, length)
    return numbers.gather(dim, index).reshape(-1)


@operation("segment_reduce")
def segment_reduce(
    value: Polynomial,
    reduce: str,
    *,
    lengths: Any = None,
    offsets: Any = None,
    axis: int = 0,
    initial: float | None = None,
    **options: Any,
) -> Polynomial:
    """Sums or means of runs along the first dim, of constant lengths."""
    given = lengths if offsets is None else offsets
    if reduce not in ("sum", "mean") or axis or initial or not isinstance(given, Tensor):
        raise NotPolynomial("`segment_reduce` other than sums and means along the first dim")
    if given.dim() != 1:
        raise NotPolynomial("`segment_reduce` in a batch")
    rows, weights = constants.memo(_segments, (given,), offsets is not None, reduce == "mean")
    count = len(given) - (offsets is not None)
    return sum_at(value, rows, count, "segment_reduce", weights=weights)


def _segments(given: Tensor, as_offsets: bool, mean: bool) -> tuple[Tensor, Tensor]:
    lengths = given.diff() if as_offsets else given
    rows = torch.repeat_interleave(lengths)
    share = 1.0 / lengths.double() if mean else torch.ones(len(lengths), dtype=torch.float64)
    return rows, share.to(rows.device)[rows]
