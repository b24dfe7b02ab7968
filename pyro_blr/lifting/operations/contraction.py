# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Products that sum over dims: matrix products, einsum, linear layers."""

from functools import reduce
from typing import Any

import torch

from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from .indexing import diagonal_of, index_select
from .reductions import mean, sum_
from .register import operation
from .scattering import is_sparse, sparse_product
from .shape import permute, reshape, transpose, unsqueeze


@operation("matmul", "mm", "bmm", "mv", "dot", "vdot", "linalg_matmul", "__matmul__")
@operation("_sparse_mm", "smm")
def matmul(left: Any, right: Any) -> Polynomial:
    """The matrix product: a product, summed over the shared dim; one factor may be sparse."""
    if is_sparse(left):
        return sparse_product(left, polynomial(right))
    if is_sparse(right):
        return _t(sparse_product(right.t(), _t(polynomial(left))))
    a, b = polynomial(left), polynomial(right)
    if b.ndim == 1:
        return (a * b).sum((-1,))
    if a.ndim == 1:
        return (unsqueeze(a, -1) * b).sum((-2,))
    return (unsqueeze(a, -1) * unsqueeze(b, -3)).sum((-2,))


def _t(value: Polynomial) -> Polynomial:
    return transpose(value, -1, -2) if value.ndim > 1 else value


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
    start: Numeric, left: Numeric, right: Numeric, *, beta: float = 1, alpha: float = 1
) -> Polynomial:
    """``beta start + alpha left @ right``."""
    return polynomial(start) * beta + matmul(left, right) * alpha


@operation("addbmm")
def addbmm(
    start: Numeric, left: Numeric, right: Numeric, *, beta: float = 1, alpha: float = 1
) -> Polynomial:
    """``beta start + alpha sum_b left[b] @ right[b]``."""
    return polynomial(start) * beta + matmul(left, right).sum((0,)) * alpha


@operation("addr")
def addr(
    start: Numeric, left: Numeric, right: Numeric, *, beta: float = 1, alpha: float = 1
) -> Polynomial:
    """``beta start + alpha left right'``, the outer product of two vectors."""
    return polynomial(start) * beta + outer(left, right) * alpha


@operation("chain_matmul", "linalg_multi_dot")
def multi_dot(*tensors: Any) -> Polynomial:
    """The matrix product of several factors."""
    factors = tensors[0] if isinstance(tensors[0], list | tuple) else tensors
    product: Polynomial = reduce(matmul, factors)
    return product


@operation("linalg_vecdot")
def vecdot(left: Numeric, right: Numeric, dim: int = -1) -> Polynomial:
    """The sum of products along a dim."""
    return (polynomial(left) * right).sum((dim,))


@operation("linalg_cross", "cross")
def cross(left: Numeric, right: Numeric, dim: int = -1) -> Polynomial:
    """The cross product of vectors in space, along a dim of size 3."""
    a, b = polynomial(left), polynomial(right)

    def turned(value: Polynomial, by: int) -> Polynomial:
        return index_select(value, dim, torch.tensor([by, by + 1, by + 2], device="cpu") % 3)

    return turned(a, 1) * turned(b, 2) - turned(a, 2) * turned(b, 1)


@operation("kron")
def kron(left: Numeric, right: Numeric) -> Polynomial:
    """The Kronecker product: all products of two elements, one operand's blocks of the other."""
    a, b = polynomial(left), polynomial(right)
    for _ in range(b.ndim - a.ndim):
        a = unsqueeze(a, 0)
    for _ in range(a.ndim - b.ndim):
        b = unsqueeze(b, 0)
    shape = [m * n for m, n in zip(a.shape, b.shape, strict=True)]
    for d in range(a.ndim):
        a, b = unsqueeze(a, 2 * d + 1), unsqueeze(b, 2 * d)
    return reshape(a * b, shape)


@operation("bilinear")
def bilinear(
    input1: Numeric, input2: Numeric, weight: Numeric, bias: Numeric | None = None
) -> Polynomial:
    """``input1 @ weight[k] @ input2 + bias[k]`` for every k."""
    product = einsum("...i,kij,...j->...k", input1, weight, input2)
    return product if bias is None else product + bias


@operation("mse_loss")
def mse_loss(
    left: Numeric, target: Numeric, *_: Any, reduction: str = "mean", **options: Any
) -> Polynomial:
    """Squared differences, summed, averaged or one by one."""
    if _ or any(v is not None for v in options.values()):
        raise NotPolynomial("`mse_loss` with weights or deprecated arguments")
    squares = (polynomial(left) - target) ** 2
    if reduction == "none":
        return squares
    return sum_(squares) if reduction == "sum" else mean(squares)


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
    letters = [*out, *sorted(set("".join(terms)) - set(out))]
    result: Polynomial | None = None
    for operand, term in zip(operands, terms, strict=True):
        placed = _along(*_without_repeats(polynomial(operand), term), letters)
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


def _without_repeats(value: Polynomial, term: str) -> tuple[Polynomial, str]:
    """A letter that stands twice in one operand names the diagonal of its dims."""
    for letter in dict.fromkeys(term):
        while term.count(letter) > 1:
            first, second = [d for d, c in enumerate(term) if c == letter][:2]
            value = diagonal_of(value, first, second)
            term = "".join(c for d, c in enumerate(term) if d not in (first, second)) + letter
    return value, term


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
