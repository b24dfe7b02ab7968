# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Products that sum over dims: matrix products, einsum, linear layers, linear maps along a dim."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from .register import operation
from .shape import permute, transpose, unsqueeze


@operation("matmul", "mm", "bmm", "mv", "dot", "vdot", "__matmul__")
def matmul(left: Numeric, right: Numeric) -> Polynomial:
    """The matrix product: a product, summed over the shared dim."""
    a, b = polynomial(left), polynomial(right)
    if b.ndim == 1:
        return (a * b).sum((-1,))
    if a.ndim == 1:
        return (unsqueeze(a, -1) * b).sum((-2,))
    return (unsqueeze(a, -1) * unsqueeze(b, -3)).sum((-2,))


@operation("__rmatmul__")
def rmatmul(right: Numeric, left: Numeric) -> Polynomial:
    """The matrix product of a plain left operand and a lifted right one."""
    return matmul(left, right)


@operation("linear")
def linear(value: Numeric, weight: Numeric, bias: Numeric | None = None) -> Polynomial:
    """``value @ weight.T + bias``."""
    weight = polynomial(weight)
    product = matmul(value, transpose(weight, -1, -2) if weight.ndim > 1 else weight)
    return product if bias is None else product + bias


@operation("addmm", "addmv", "baddbmm")
def addmm(
    value: Numeric, left: Numeric, right: Numeric, *, beta: float = 1, alpha: float = 1
) -> Polynomial:
    """``beta value + alpha left @ right``."""
    return polynomial(value) * beta + matmul(left, right) * alpha


@operation("outer", "ger")
def outer(left: Numeric, right: Numeric) -> Polynomial:
    """The outer product of two vectors."""
    return unsqueeze(polynomial(left), -1) * polynomial(right)


@operation("inner")
def inner(left: Numeric, right: Numeric) -> Polynomial:
    """The sum of products along the last dims of both."""
    a, b = polynomial(left), polynomial(right)
    if a.ndim == 0 or b.ndim == 0:
        return a * b
    return matmul(a, transpose(b, -1, -2) if b.ndim > 1 else b)


@operation("einsum")
def einsum(equation: str, *operands: Any) -> Polynomial:
    """A product of operands along named dims, summed over those that are not in the result."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    equation = equation.replace(" ", "")
    inputs, arrow, out = equation.partition("->")
    terms = inputs.split(",")
    if "..." in equation:
        terms, out = _spelled_out(terms, out, [polynomial(o).ndim for o in operands], bool(arrow))
        arrow = "->"
    if not arrow:
        every = "".join(terms)
        out = "".join(sorted(c for c in set(every) if every.count(c) == 1))
    if any(len(set(t)) < len(t) for t in terms):
        raise NotPolynomial("einsum with a repeated index in one operand")
    letters = [*out, *sorted(set("".join(terms)) - set(out))]
    result: Polynomial | None = None
    for operand, term in zip(operands, terms, strict=True):
        placed = _along(polynomial(operand), term, letters)
        result = placed if result is None else result * placed
    assert result is not None
    summed = range(len(out), len(letters))
    return result.sum(tuple(summed)) if len(letters) > len(out) else result


def _spelled_out(
    terms: list[str], out: str, ndims: list[int], arrow: bool
) -> tuple[list[str], str]:
    """Give the dims of an ellipsis letters of their own, aligned from the right."""
    used = set("".join(terms) + out)
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in used]
    longest = max(
        n - len(t.replace("...", "")) for t, n in zip(terms, ndims, strict=True) if "..." in t
    )
    letters = "".join(spare[:longest])
    spelled = []
    for term, ndim in zip(terms, ndims, strict=True):
        count = ndim - len(term.replace("...", ""))
        spelled.append(term.replace("...", letters[longest - count :] if count else ""))
    if not arrow:
        every = "".join(spelled)
        single = sorted(c for c in set(every) if every.count(c) == 1 and c not in letters)
        return spelled, letters + "".join(single)
    return spelled, out.replace("...", letters)


def _along(value: Polynomial, term: str, letters: list[str]) -> Polynomial:
    order = sorted(range(len(term)), key=lambda i: letters.index(term[i]))
    value = permute(value, *order) if order else value
    for place, letter in enumerate(letters):
        if letter not in term:
            value = unsqueeze(value, place)
    return value


@operation("tensordot")
def tensordot(left: Numeric, right: Numeric, dims: Any = 2, out: None = None) -> Polynomial:
    """The sum of products over pairs of dims."""
    a, b = polynomial(left), polynomial(right)
    if isinstance(dims, int):
        dims = (list(range(a.ndim - dims, a.ndim)), list(range(dims)))
    mine = [d % a.ndim for d in dims[0]]
    theirs = [d % b.ndim for d in dims[1]]
    letters = [chr(97 + i) for i in range(a.ndim + b.ndim)]
    first = letters[: a.ndim]
    second = letters[a.ndim :]
    for i, j in zip(mine, theirs, strict=True):
        second[j] = first[i]
    left_over = [c for i, c in enumerate(first) if i not in mine]
    left_over += [c for j, c in enumerate(second) if j not in theirs]
    return einsum(f"{''.join(first)},{''.join(second)}->{''.join(left_over)}", a, b)


def _linear_along(matrix: Tensor, value: Polynomial, dim: int) -> Polynomial:
    """Apply a constant matrix along a dim."""
    dim %= value.ndim
    behind = value.ndim - 1 - dim
    table = matrix.reshape(*matrix.shape, *(1,) * behind)
    return (unsqueeze(value, dim) * table).sum((dim + 1,))


@lru_cache(maxsize=64)
def _matrix(function: Callable[..., Tensor], size: int, *args: Any) -> Tensor:
    """The matrix of a linear map along a dim: the map applied to the identity."""
    identity = torch.eye(size, dtype=torch.float64, device="cpu")
    return function(identity, *args, dim=0).contiguous()


@operation("cumsum")
def cumsum(value: Polynomial, dim: int, dtype: Any = None) -> Polynomial:
    """The cumulative sum: a triangular matrix along the dim."""
    return _linear_along(_matrix(torch.cumsum, value.shape[dim]), value, dim)


@operation("diff")
def diff(value: Polynomial, n: int = 1, dim: int = -1) -> Polynomial:
    """The n-th difference along a dim: a banded matrix along it."""
    return _linear_along(_matrix(_diff, value.shape[dim], n), value, dim)


def _diff(value: Tensor, n: int, dim: int) -> Tensor:
    return torch.diff(value, n=n, dim=dim)


@operation("roll")
def roll(value: Polynomial, shifts: int, dims: int | None = None) -> Polynomial:
    """A rotation along one dim: a permutation matrix along it."""
    if dims is None or not isinstance(shifts, int) or not isinstance(dims, int):
        raise NotPolynomial("`roll` along several dims")
    return _linear_along(_matrix(_roll, value.shape[dims], shifts), value, dims)


def _roll(value: Tensor, shifts: int, dim: int) -> Tensor:
    return torch.roll(value, shifts, dim)
