# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Linear operations through their matrices: torch itself, run on unit vectors, gives the columns.

A call is a linear map of its lifted operands plus what it gives where they are 0,

    f(z) = f(0) + sum_d M[:, d] z[d],      M[:, d] = f(e_d) - f(0),

so one table of names serves ``conv1d``, ``cumsum`` and ``linalg.solve``. Dims along which the map
acts slice by slice (a batch of images, the columns of a right-hand side) are found by running it
on single slices; they stay out of the matrix. Whether the call is linear in what is lifted is
checked at one more point: an operation that is linear in either argument, but not in both, needs no
rule of its own.
"""

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from .. import constants, host
from ..axes import Axis, common_device
from ..dispatch import OPERATIONS, WholeCall
from ..polynomial import Polynomial, polynomial
from ..template import Template, from_shapes, take_apart
from ..tensor import Call, polynomial_of
from ..terms import Constant, NotPolynomial, Term
from .moving import probe_point

#: What each of them is, and in what it is linear, by its torch names.
MAPS: dict[str, str] = {
    "cumsum": "The cumulative sum",
    "diff": "The n-th difference along a dim, with `prepend` and `append`",
    "trapezoid trapz cumulative_trapezoid": "Integrals by the trapezoidal rule",
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d": (
        "Convolutions, linear in input and bias, or in weight and bias"
    ),
    "avg_pool1d avg_pool2d avg_pool3d": "Averages of windows",
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d": "Averages of windows",
    "interpolate upsample": "Interpolation in all modes",
    "fold": "Sums of windows back into an image",
    "linalg_solve": "The solution of a constant matrix's equations, linear in the right-hand side",
    "linalg_solve_triangular": "As `linalg.solve`, for a triangular matrix",
    "cholesky_solve lu_solve linalg_lu_solve linalg_tensorsolve": (
        "Solutions for a constant factor of the matrix, linear in the right-hand side"
    ),
    "embedding_bag": "Sums or means of rows of a table, linear in the table",
    "grid_sample": "Samples of an image between its pixels, linear in the image",
}

#: The bytes that the matrix of one call may take: 5000 unknowns to 5000 results take 200 MB.
LIMIT = 2**28

#: The relative error below which a value at one more point agrees with the matrix: far above the
#: rounding of ill-conditioned solves, far below what an operation that is not linear shows.
AGREES = 1e-6


class Part(NamedTuple):
    """One operand's share of one result.

    :param matrix: # shape: (result's dims that the map acts on, operand's such dims), sizes of 1
        left out.
    :param rows: the result's dims along which it runs.
    :param columns: the operand's dims along which it runs.
    """

    operand: int
    matrix: Tensor
    rows: tuple[int, ...]
    columns: tuple[int, ...]


class Mapped(NamedTuple):
    """One result: ``f(0)`` plus a matrix times each operand.

    :param offset: ``f(0)``; None if it is 0.
    :param kept: the result's dims that are dims of the only operand, slice by slice.
    """

    shape: tuple[int, ...]
    offset: Tensor | None
    parts: tuple[Part, ...]
    kept: dict[int, int]


def mapped(call: Call) -> tuple[Polynomial, ...]:
    """The results of a call that is linear in its lifted operands."""
    template, lifted, given = take_apart(call)
    values = [polynomial_of(t) for t in lifted]
    shapes = tuple(tuple(v.shape) for v in values)
    plan = constants.memo(_plan, tuple(given), template, shapes, lifted[0].device)
    if isinstance(plan, str):
        raise NotPolynomial(f"`{call.name}` {plan}")
    return tuple(_assembled(m, values) for m in plan)


def _assembled(plan: Mapped, values: list[Polynomial]) -> Polynomial:
    dims = [Axis(size) if size != 1 else None for size in plan.shape]
    for result_dim, operand_dim in plan.kept.items():
        dims[result_dim] = values[0].dims[operand_dim]
    terms: list[Term] = []
    for part in plan.parts:
        own = values[part.operand].dims
        where = tuple(a for d in part.rows if (a := dims[d])) + tuple(
            a for d in part.columns if (a := own[d])
        )
        factor = Term(1.0, (Constant(part.matrix, where),), ())
        terms += [t.times(factor) for t in values[part.operand].terms]
    result = Polynomial(dims, terms)
    return result if plan.offset is None else result + polynomial(plan.offset)


def _plan(*given_and_call: Any) -> tuple[Mapped, ...] | str:
    """The matrices of a call, or the reason why it has none."""
    *given, template, shapes, target = given_and_call
    plan: tuple[Mapped, ...] | str = from_shapes(_matrices, given, template, shapes)
    if isinstance(plan, str) or target.type == "cpu":
        return plan
    return tuple(m if m.offset is None else m._replace(offset=m.offset.to(target)) for m in plan)


def _matrices(
    given: list[Tensor], template: Template, shapes: tuple[tuple[int, ...], ...]
) -> tuple[Mapped, ...] | str:
    device = common_device(given)
    doubles = [t.double() if t.dtype.is_floating_point else t for t in given]
    probe = _Probe(template, doubles, shapes, device)
    try:
        outputs = probe.at(probe.zeros)
    except RuntimeError:  # a latent matrix whose equations are to be solved
        probe.at(probe.noise)
        return "is not linear in its latents with these arguments"
    if any(t.is_complex() for t in outputs):
        return "gives complex numbers"
    if any(t.numel() == 0 for t in outputs):
        return "gives nothing"
    kept = probe.slice_by_slice() if len(shapes) == 1 and len(outputs) == 1 else {}
    needed = (
        8
        * sum(prod(_rest(s, kept.values())) for s in shapes)
        * sum(prod(_rest(t.shape, kept)) for t in outputs)
    )
    if needed > LIMIT:
        return f"would need a matrix of {needed:.1e} bytes; at most {LIMIT:.1e} are taken"
    plans = probe.matrices(outputs, kept)
    return plans if probe.agrees(plans) else "is not linear in its latents with these arguments"


def _rest(shape: tuple[int, ...], without: Any) -> list[int]:
    return [n for d, n in enumerate(shape) if d not in without]


class _Probe:
    """A call that is run on unit vectors, slices and a point."""

    def __init__(
        self,
        template: Template,
        given: list[Tensor],
        shapes: tuple[tuple[int, ...], ...],
        device: torch.device,
    ) -> None:
        self._template, self._given, self._shapes = template, given, shapes
        self.zeros = [torch.zeros(s, dtype=torch.float64, device=device) for s in shapes]
        sizes = [prod(s) for s in shapes]
        pieces = probe_point(sum(sizes), device).split(sizes)
        self.noise = [p.reshape(s) for p, s in zip(pieces, shapes, strict=True)]

    def at(self, values: list[Tensor]) -> list[Tensor]:
        """The results at a point."""
        return pytree.tree_leaves(self._template.filled(values, self._given))

    def slice_by_slice(self) -> dict[int, int]:
        """The result's dims along which single slices of the only operand have single results."""
        (noise,) = self.noise
        with torch.no_grad():
            (whole,) = self.at([noise])
            found = {}
            for dim, size in enumerate(noise.shape):
                result_dim = self._goes_with(noise, whole, dim) if size > 1 else None
                if result_dim is not None and result_dim not in found:
                    found[result_dim] = dim
        return found

    def _goes_with(self, noise: Tensor, whole: Tensor, dim: int) -> int | None:
        last = noise.shape[dim] - 1
        for place in (0, last // 2, last):
            try:
                (one,) = self.at([noise.narrow(dim, place, 1)])
            except (RuntimeError, ValueError, IndexError):  # it must have all slices at once
                return None
            differing = [
                d for d, (m, n) in enumerate(zip(one.shape, whole.shape, strict=False)) if m != n
            ]
            if one.dim() != whole.dim() or len(differing) != 1:
                return None
            (result_dim,) = differing
            if whole.shape[result_dim] != noise.shape[dim] or one.shape[result_dim] != 1:
                return None
            if not _close(one, whole.narrow(result_dim, place, 1)):
                return None
        return result_dim

    def matrices(self, outputs: list[Tensor], kept: dict[int, int]) -> tuple[Mapped, ...]:
        """``f(e_d) - f(0)`` for every element of every operand, one slice of those kept."""
        start = [_first_slices(z, kept.values()) for z in self.zeros]
        base = self.at(start)
        parts: list[list[Part]] = [[] for _ in outputs]
        for k, zero in enumerate(start):
            columns = tuple(d for d, n in enumerate(zero.shape) if n != 1)
            images = [
                [image - b for image, b in zip(self.at(unit), base, strict=True)]
                for unit in _units(start, k)
            ]
            for i, output in enumerate(base):
                rows = tuple(d for d, n in enumerate(output.shape) if n != 1)
                matrix = torch.stack([image[i].squeeze() for image in images], -1)
                shape = [output.shape[d] for d in rows] + [zero.shape[d] for d in columns]
                parts[i].append(Part(k, matrix.reshape(shape), rows, columns))
        return tuple(
            Mapped(tuple(o.shape), o if host.settled(o.any()) else None, tuple(own), kept)
            for o, own in zip(outputs, parts, strict=True)
        )

    def agrees(self, plans: tuple[Mapped, ...]) -> bool:
        """Whether the matrices give the value at one more point."""
        with torch.no_grad():
            return all(
                _close(_value(plan, self.noise), output)
                for plan, output in zip(plans, self.at(self.noise), strict=True)
            )


def _first_slices(tensor: Tensor, dims: Any) -> Tensor:
    for dim in dims:
        tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _units(start: list[Tensor], operand: int) -> Iterator[list[Tensor]]:
    zero = start[operand]
    for place in range(zero.numel()):
        unit = torch.zeros(zero.numel(), dtype=zero.dtype, device=zero.device)
        unit[place] = 1.0
        yield [unit.reshape(zero.shape) if k == operand else z for k, z in enumerate(start)]


def _close(actual: Tensor, expected: Tensor) -> bool:
    error = (actual - expected).abs().max()
    return host.settled(error <= AGREES * (expected.abs().max() + torch.finfo(error.dtype).tiny))


def _value(plan: Mapped, values: list[Tensor]) -> Tensor:
    """``f(0) + M z`` at given values, kept dims beside the matrix's."""
    total = torch.zeros(()) if plan.offset is None else plan.offset
    for part in plan.parts:
        value = values[part.operand]
        letters = {d: i for i, d in enumerate(range(value.dim()))}
        result = [
            letters[plan.kept[d]] if d in plan.kept else value.dim() + d
            for d in range(len(plan.shape))
            if d in plan.kept or d in part.rows
        ]
        matrix = [value.dim() + d for d in part.rows] + [letters[d] for d in part.columns]
        summed = torch.einsum(value, list(letters.values()), part.matrix, matrix, result)
        sizes = [n if d in plan.kept or d in part.rows else 1 for d, n in enumerate(plan.shape)]
        total = total + summed.reshape(sizes)
    return total


def register_linear(*names: str, keeps: str) -> None:
    """Enter torch functions that are linear in their lifted arguments: torch gives the matrix.

    Whether a call is linear in what is lifted is checked at each new call, to 1e-6.

    :param names: of the torch functions, as for :func:`~pyro_blr.extend.operation`.
    :param keeps: what they are, in words.
    """
    OPERATIONS.update(dict.fromkeys(names, WholeCall(mapped, keeps)))


for _names, _sentence in MAPS.items():
    register_linear(*_names.split(), keeps=_sentence)
