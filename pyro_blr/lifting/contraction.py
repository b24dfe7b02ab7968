# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Contractions of tensors along named axes.

Constants are folded in float64 whatever the model's dtype, in slices of rows: the expanded square
``y'y - 2 m'X'y + m'X'X m`` cancels, and in float32 an offset of 1e4 standard deviations would leave
nothing of it. The folded constants are small, so float64 costs one pass over the data and no more.
"""

from collections.abc import Iterable
from functools import lru_cache
from math import prod

import opt_einsum
import torch
from torch import Tensor

from . import constants, host
from .axes import Address, Axis, common_device, take

Operand = tuple[Tensor, tuple[Axis, ...]]

#: Rows of a constant that are converted to float64 at a time: 8192 rows of 100 columns are 6.5 MB,
#: which stays in a second- or third-level cache between the conversion and the product.
ROWS = 8192


def contract(operands: list[Operand], out: tuple[Axis, ...]) -> Tensor:
    """Multiply operands and sum over every axis that is not in ``out``."""
    scalars = [t for t, axes in operands if not axes]
    arrays = [(t, axes) for t, axes in operands if axes]
    if not arrays:
        return prod(scalars[1:], start=scalars[0])
    if len(arrays) == 2 and not out and arrays[0][1] == arrays[1][1]:
        value = torch.dot(arrays[0][0].reshape(-1), arrays[1][0].reshape(-1))
    elif len(arrays) == 1 and set(arrays[0][1]) == set(out):
        value = arrays[0][0].permute([arrays[0][1].index(a) for a in out])
    else:
        value = _einsum([t for t, _ in arrays], _equation(tuple(axes for _, axes in arrays), out))
    return prod(scalars, start=value) if scalars else value


def along(operands: list[Operand], axes: tuple[Axis, ...]) -> Tensor:
    """The product of operands along axes, whether they run along each or not."""
    present = {a for _, which in operands for a in which}
    value = contract(operands, tuple(a for a in axes if a in present))
    value = value.reshape([a.size if a in present else 1 for a in axes])
    return value.expand([a.size for a in axes])


@lru_cache(maxsize=4096)
def _equation(axes: tuple[tuple[Axis, ...], ...], out: tuple[Axis, ...]) -> str:
    names: dict[Axis, str] = {}

    def letters(which: tuple[Axis, ...]) -> str:
        return "".join(names.setdefault(a, opt_einsum.get_symbol(len(names))) for a in which)

    return ",".join(letters(a) for a in axes) + "->" + letters(out)


def _einsum(tensors: list[Tensor], equation: str) -> Tensor:
    if len(tensors) <= 2:
        return _product(equation, tensors)
    left = list(tensors)
    for places, step in _pairwise(equation, *(tuple(t.shape) for t in tensors)):
        left.append(_product(step, [left.pop(i) for i in places]))
    return left[0]


def _product(equation: str, tensors: list[Tensor]) -> Tensor:
    """One step of a contraction: elementwise where nothing is summed, else by ``torch.einsum``.

    For a product along common axes torch.einsum multiplies a batch of 1 x 1 matrices, thirty times
    slower than the product of two vectors. Sums against a vector, which take it twice as long
    as their own functions, and their derivatives, are left to these.
    """
    if len(tensors) != 2:
        return torch.einsum(equation, *tensors)
    views, against = _views(equation), _against_vector(equation)
    if views is not None:
        pairs = zip(tensors, views, strict=True)
        left, right = (_laid(t, order, gaps) for t, (order, gaps) in pairs)
        return left * right
    if against is None:
        return torch.einsum(equation, *tensors)
    place, order = against
    matrix, vector = tensors[1 - place].permute(order), tensors[place]
    if matrix.dim() > vector.dim():
        return matrix @ vector
    return torch.dot(matrix.reshape(-1), vector.reshape(-1))


def _laid(tensor: Tensor, order: tuple[int, ...], gaps: tuple[int, ...]) -> Tensor:
    tensor = tensor.permute(order)
    for place in gaps:
        tensor = tensor.unsqueeze(place)
    return tensor


@lru_cache(maxsize=4096)
def _views(equation: str) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] | None:
    """How two operands are laid along the output's axes, if no axis is summed or repeated: the
    order of their own, and the places of those that they lack.
    """
    inputs, out = equation.split("->")
    operands = inputs.split(",")
    if set("".join(operands)) != set(out) or any(len(set(o)) < len(o) for o in operands):
        return None
    return tuple(
        (
            tuple(operand.index(a) for a in out if a in operand),
            tuple(place for place, a in enumerate(out) if a not in operand),
        )
        for operand in operands
    )


@lru_cache(maxsize=4096)
def _against_vector(equation: str) -> tuple[int, tuple[int, ...]] | None:
    """Which of two operands has the summed axes and no others, and the other's order to meet it.

    None where neither does, where it is a matrix that meets more than a matrix, or where an axis is
    repeated or in one operand alone.
    """
    inputs, out = equation.split("->")
    operands = inputs.split(",")
    for place, vector in enumerate(operands):
        other = operands[1 - place]
        is_known = len({*other}) == len(other) == len(out) + len(vector)
        if is_known and {*other} == {*out, *vector} and (len(vector) == 1 or not out):
            return place, tuple(other.index(a) for a in out + vector)
    return None


@lru_cache(maxsize=512)
def _pairwise(equation: str, *shapes: tuple[int, ...]) -> tuple[tuple[tuple[int, ...], str], ...]:
    """The order of a product of many operands: which are taken next, and by which equation.

    opt_einsum finds it; torch takes the steps, which costs less than an opt_einsum expression does.
    """
    _, path = opt_einsum.contract_path(equation, *shapes, shapes=True)
    return tuple((tuple(step[0]), step[2]) for step in path.contraction_list)


def fold(
    factors: list[tuple[Tensor, tuple[Address, ...]]], kept: set[Axis], number: float
) -> tuple[Operand, ...]:
    """Contract constants over the axes that nothing else runs along; in float64.

    Where the product would be larger than its factors (the two X of a predictor's variance, ``X'X``
    of more columns than rows) they are not multiplied out and come back apart, each along the axes
    that others need too.
    """
    operands = together([_resolved(tensor, where) for tensor, where in factors])
    if not operands:
        return ((torch.tensor(number, dtype=torch.float64, device="cpu"), ()),)
    out = tuple(dict.fromkeys(a for _, axes in operands for a in axes if a in kept))
    if prod(a.size for a in out) <= 4 * max(t.numel() for t, _ in operands):
        return ((_fold_one(operands, out) * number, out),)
    every = [a for _, axes in operands for a in axes]
    needed = kept | {a for a in every if every.count(a) > 1}
    apart = [(_fold_one([o], own), own) for o in operands for own in [_kept(o, needed)]]
    (first, axes), *rest = apart
    return ((first * number, axes), *rest)


def together(operands: Iterable[Operand]) -> list[Operand]:
    """The operands on the device where they meet."""
    operands = list(operands)
    device = common_device(t for t, _ in operands)
    return [(t.to(device), axes) for t, axes in operands]


def _kept(operand: Operand, kept: set[Axis]) -> tuple[Axis, ...]:
    return tuple(a for a in operand[1] if a in kept)


def _resolved(tensor: Tensor, where: tuple[Address, ...]) -> Operand:
    if all(isinstance(w, Axis) for w in where) and len(set(where)) == len(where):
        return tensor, where  # type: ignore[return-value]
    return take(tensor, where)


def _fold_one(operands: list[Operand], out: tuple[Axis, ...]) -> Tensor:
    if len(operands) == 1 and operands[0][1] == out:
        return operands[0][0].double()
    operands = sorted(operands, key=lambda o: (o[0].dim(), _place_in_memory(o[0])))
    tensors = tuple(t for t, _ in operands)
    return constants.memo(_fold_einsum, tensors, _equation(tuple(a for _, a in operands), out))  # type: ignore[no-any-return]


def _place_in_memory(tensor: Tensor) -> int:
    return tensor.data_ptr() if host.readable(tensor) else 0


def _fold_einsum(*tensors_and_equation: object) -> Tensor:
    *given, equation = tensors_and_equation
    tensors: list[Tensor] = list(given)  # type: ignore[arg-type]
    assert isinstance(equation, str)
    if all(t.dtype == torch.float64 for t in tensors):
        return _einsum(tensors, equation)
    inputs, out = equation.split("->")
    terms = inputs.split(",")
    rows = _long_axis(tensors, terms, out)
    if rows is None:
        return _einsum([t.double() for t in tensors], equation)
    size = next(t.shape[s.index(rows)] for t, s in zip(tensors, terms, strict=True) if rows in s)
    buffers = _Buffers()
    total: Tensor | None = None
    for start in range(0, size, ROWS):
        count = min(ROWS, size - start)
        pieces = [
            buffers.double(t, s.index(rows), start, count) if rows in s else t.double()
            for t, s in zip(tensors, terms, strict=True)
        ]
        piece = _einsum(pieces, equation)
        total = piece if total is None else total.add_(piece)
    assert total is not None
    return total


class _Buffers:
    """Slices in float64, in memory that is used again: a fresh page costs more than its conversion.

    A tensor that stands twice in a product (both X of ``X'X``) is converted once a slice.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int], tuple[int, Tensor, Tensor]] = {}

    def double(self, tensor: Tensor, dim: int, start: int, count: int) -> Tensor:
        """``tensor.narrow(dim, start, count)`` in float64."""
        piece = tensor.narrow(dim, start, count)
        known = self._kept.get((id(tensor), dim))
        if known is None:
            self._kept[id(tensor), dim] = known = (start, piece.double(), piece)
            return known[1]
        buffer = known[1].narrow(dim, 0, count)
        if known[0] != start:
            buffer.copy_(piece)
            self._kept[id(tensor), dim] = (start, known[1], piece)
        return buffer


def _long_axis(tensors: list[Tensor], terms: list[str], out: str) -> str | None:
    """A contracted axis worth slicing, or None."""
    sizes = {
        c: n for t, s in zip(tensors, terms, strict=True) for c, n in zip(s, t.shape, strict=True)
    }
    long = [c for c, n in sizes.items() if c not in out and n > ROWS]
    return max(long, key=sizes.__getitem__) if long else None
