# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A model as a table of probabilities: any function of parameters that returns one."""

from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..counts import is_count
from .fisher import ROUNDED
from .jacobian import table_and_jacobian
from .layout import Layout, check_law, named, places, rounded_sum
from .point import Point


class FiniteModel:
    """A joint law of finitely many visible and hidden values, as a function of parameters.

    A value of probability 0 that no parameter moves is impossible, and left out.

    Example::

        def naive_bayes(theta):  # h -> y, h -> z, all of them binary
            h, y, z = theta[0], theta[1:3], theta[3:5]
            prior = torch.stack([h, 1 - h])
            given = lambda p: torch.stack([p, 1 - p], -1)
            return prior[:, None, None] * given(y)[:, :, None] * given(z)[:, None, :]


        finite = geometry.FiniteModel(naive_bayes, dims=("h", "y", "z"), hidden="h")
        print(finite.at(torch.tensor([0.3, 0.8, 0.1, 0.7, 0.2])))

    :param table: a function of a vector that returns a table of probabilities; differentiable.
    :param dims: the name of each dim of the table.
    :param hidden: the names of those that are hidden; the others are visible.
    :param parameters: the names of the vector's elements, for what is printed.
    """

    def __init__(
        self,
        table: Callable[[Tensor], Tensor],
        dims: Sequence[str],
        hidden: Sequence[str] | str,
        parameters: Sequence[str] | None = None,
    ) -> None:
        if not callable(table):
            raise errors.ArgumentError(
                f"the table is a {type(table).__name__}, and not a function of a vector. Mend: "
                "FiniteModel(lambda theta: ..., dims, hidden)."
            )
        self.table = table
        self.dims, self.hidden = named(dims, "dims"), named(hidden, "hidden")
        self.parameters = None if parameters is None else named(parameters, "parameters")
        unknown = [n for n in self.hidden if n not in self.dims]
        if unknown:
            raise errors.UnknownNameError(
                f"there is no dim {unknown[0]!r} to be hidden; the table's are "
                f"{', '.join(map(repr, self.dims))}. Mend: one of these."
            )
        if len(self.hidden) == len(self.dims):
            raise errors.ArgumentError(
                "all dims are hidden, so that no data say anything of the model. Mend: leave the "
                "dims of the data out of hidden=."
            )

    # ----- The geometry at a parameter --------------------------------------------------------

    def at(self, theta: Tensor) -> Point:
        """The geometry at a parameter, or at each of many.

        Many are evaluated at once, by ``torch.vmap`` of the table. If ``theta`` requires a
        gradient, laws, Fisher matrices and the density of Jeffreys' prior have one.

        :param theta: # shape: (*batch, parameters)
        :raises BoundaryError: where a probability is 0 that a parameter moves.
        :raises ProbabilityError: if the table is negative, or does not sum to 1 there or nearby.
        :raises ShapeError: if the parameter or the table has the wrong shape.
        """
        theta = self.parameter(theta)
        flat = theta.reshape(-1, theta.shape[-1])
        table, jacobian, moved_zeros = table_and_jacobian(self.table, flat, self.dims)
        _check_digits(table, "the table")
        layout = Layout(self.dims, self.hidden, tuple(table.shape[1:]))
        self._check_law(table, jacobian, moved_zeros, layout)
        batch = theta.shape[:-1]
        folded = layout.fold(table.double()).reshape(*batch, *layout.states)
        moved = layout.fold(jacobian.double().movedim(-1, 0)).movedim(0, -1)
        eps = max(torch.finfo(t.dtype).eps for t in (table, theta))
        moved = moved.reshape(*batch, *layout.states, theta.shape[-1])
        return Point(layout, self.names(theta.shape[-1]), theta, folded, moved, eps)

    def names(self, count: int) -> tuple[str, ...]:
        """The names of the parameters."""
        return self.parameters or tuple(f"theta[{i}]" for i in range(count))

    def parameter(self, theta: Any) -> Tensor:
        """A parameter, or many as rows, as real numbers with digits enough.

        :raises DeviceError: in half precision, in which a defect would be rounding.
        :raises NonFiniteError: for NaN or infinite elements.
        :raises ShapeError: for what is no vector of that many numbers.
        """
        try:
            given: Tensor = torch.as_tensor(theta)
        except (TypeError, ValueError, RuntimeError) as error:
            raise errors.ShapeError(
                f"the parameter is a {type(theta).__name__}, and no vector of numbers ({error}). "
                "Mend: a tensor."
            ) from error
        _check_digits(given, "the parameter")
        return self._checked(given)

    def _checked(self, theta: Tensor) -> Tensor:
        theta = theta if theta.is_floating_point() else theta.to(torch.get_default_dtype())
        expected = None if self.parameters is None else len(self.parameters)
        is_wrong = theta.dim() == 0 or theta.numel() == 0
        if is_wrong or theta.shape[-1] != (expected or theta.shape[-1]):
            raise errors.ShapeError(
                f"the parameter has the shape {tuple(theta.shape)}. Mend: a vector of "
                f"{expected or 'one or more'} numbers, or many of them as rows."
            )
        if not bool(torch.isfinite(theta).all()):
            raise errors.NonFiniteError(
                "the parameter has an element that is NaN or infinite. Mend: look at the step that "
                "led there."
            )
        return theta

    def _check_law(
        self, table: Tensor, jacobian: Tensor, moved_zeros: Tensor, layout: Layout
    ) -> None:
        table, jacobian = table.detach(), jacobian.detach()
        check_law(table, len(self.dims), "the table of the model")
        over = tuple(range(1, 1 + len(self.dims)))
        is_edge = layout.fold(moved_zeros).flatten(1).any(0)
        if bool(is_edge.any()):
            cell = int(is_edge.long().argmax())
            raise errors.BoundaryError(
                f"the parameter is on the boundary of the simplex, p({layout.cell(cell)}) = 0, "
                "by which the Fisher matrix divides. Mend: a parameter inside, or unconstrained "
                "numbers (softmax, sigmoid) that never get there."
            )
        limit = rounded_sum(table.dtype) * jacobian.abs().sum(over)
        limit = limit + ROUNDED * torch.finfo(table.dtype).eps
        drift = (jacobian.sum(over).abs() > limit).any(0)
        if bool(drift.any()):
            name = self.names(len(drift))[int(drift.long().argmax())]
            raise errors.ProbabilityError(
                f"the table sums to 1 here but not nearby: its sum changes with {name}. Mend: "
                "divide by the sum inside the model, not at one parameter."
            )

    # ----- Targets ----------------------------------------------------------------------------

    @property
    def visible(self) -> tuple[str, ...]:
        """The names of the visible dims, in their order."""
        return tuple(n for n in self.dims if n not in self.hidden)

    def supports(self, theta: Tensor) -> dict[str, Tensor]:
        """The values along each dim: 0, 1, ... of a plain table."""
        sizes = self.at(theta).layout.sizes
        return {n: torch.arange(k) for n, k in zip(self.dims, sizes, strict=True)}

    def frequencies(self, data: Mapping[str, Tensor], theta: Tensor) -> Tensor:
        """The empirical law of data, which is the target of a fit by maximum likelihood.

        :param data: the values of each visible dim, by name. # shape of each: (N,)
        :param theta: any parameter, at which the size of the table is seen.
        :returns: # shape: (*sizes of visible dims)
        :raises SupportError: for a datum that is none of its dim's values.
        """
        supports = {n: s for n, s in self.supports(theta).items() if n in self.visible}
        found = list(places(data, supports).values())
        if len({tuple(f.shape) for f in found}) > 1 or not found[0].numel():
            raise errors.ShapeError(
                f"the data of the visible dims have the shapes {[tuple(f.shape) for f in found]}. "
                "Mend: one value of each for every datum, and one datum or more."
            )
        sizes = tuple(len(s) for s in supports.values())
        flat = torch.zeros(found[0].numel(), dtype=torch.long, device=found[0].device)
        for place, size in zip(found, sizes, strict=True):
            flat = flat * size + place.flatten()
        counts = torch.bincount(flat, minlength=prod(sizes)).double()
        return (counts / counts.sum()).reshape(sizes)


def _check_digits(numbers: Tensor, what: str) -> None:
    """Refuse numbers in which angles between tangent spaces would be rounding."""
    if numbers.is_complex() or numbers.dtype in (torch.float16, torch.bfloat16):
        raise errors.DeviceError(
            f"{what} is of {numbers.dtype}, and not of real numbers with digits enough for angles "
            "between tangent spaces. Mend: theta.double(), and a table of that dtype."
        )


def saturated(
    dims: Sequence[str], sizes: Sequence[int], hidden: Sequence[str] | str
) -> FiniteModel:
    """The model of all laws: its parameters are the log-odds of each value against the last one.

    :param dims: the name of each dim of the table.
    :param sizes: the number of values along each.
    :param hidden: the names of those that are hidden.
    """

    def table(theta: Tensor) -> Tensor:
        logits = torch.cat([theta, theta.new_zeros(1)])
        return logits.softmax(0).reshape(tuple(sizes))

    if not all(map(is_count, sizes)) or len(tuple(sizes)) != len(tuple(dims)) or prod(sizes) < 2:
        raise errors.ShapeError(
            f"sizes={tuple(sizes)} do not give each of the dims {tuple(dims)} a number of values. "
            "Mend: one size for each dim, two values or more in all."
        )
    parameters = tuple(f"logit[{i}]" for i in range(prod(sizes) - 1))
    return FiniteModel(table, dims, hidden, parameters)
