# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Tables of probabilities with named dims, some of them visible and the others hidden."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from .. import errors


@dataclass(frozen=True)
class Layout:
    """Which dims of a table are visible and which are hidden; it folds a table to (V, H).

    :param dims: the name of each dim of a table.
    :param hidden: those that are summed out.
    :param sizes: the number of values along each.
    """

    dims: tuple[str, ...]
    hidden: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def visible(self) -> tuple[str, ...]:
        """The names of the visible dims, in their order."""
        return tuple(n for n in self.dims if n not in self.hidden)

    def sizes_of(self, names: Sequence[str]) -> tuple[int, ...]:
        """The sizes of some dims."""
        return tuple(self.sizes[self.dims.index(n)] for n in names)

    @property
    def states(self) -> tuple[int, int]:
        """The numbers of joint values of the visible and of the hidden dims."""
        return prod(self.sizes_of(self.visible)), prod(self.sizes_of(self.hidden))

    def fold(self, table: Tensor) -> Tensor:
        """A joint table by visible and hidden state. # shape: (*batch, V, H)"""
        first = table.dim() - len(self.dims)
        order = [first + self.dims.index(n) for n in (*self.visible, *self.hidden)]
        return table.permute(*range(first), *order).reshape(*table.shape[:first], *self.states)

    def unfold(self, folded: Tensor) -> Tensor:
        """The same back. # shape: (*batch, *sizes)"""
        order, first = (*self.visible, *self.hidden), folded.dim() - 2
        table = folded.reshape(*folded.shape[:first], *self.sizes_of(order))
        return table.permute(*range(first), *(first + order.index(n) for n in self.dims))

    def unfold_visible(self, folded: Tensor) -> Tensor:
        """A visible table from its states. # shape: (*batch, *sizes of visible dims)"""
        return folded.reshape(*folded.shape[:-1], *self.sizes_of(self.visible))

    def cell(self, index: int) -> str:
        """One entry of a joint table in words, by its place in the flat (V, H)."""
        order = (*self.visible, *self.hidden)
        sizes = self.sizes_of(order)
        places = torch.unravel_index(torch.tensor(index), sizes)
        found = dict(zip(order, map(int, places), strict=True))
        return ", ".join(f"{n}={found[n]}" for n in self.dims)

    # ----- Laws that a user gives -------------------------------------------------------------

    def joint_law(self, table: Tensor, what: str) -> Tensor:
        """A joint law that was given, by state, in float64. # shape: (*batch, V, H)"""
        return self.fold(_law(table, self.dims, self.sizes, what))

    def shaped(self, table: Tensor, what: str) -> Tensor:
        """A joint table that was given, of whatever values. # shape: (*batch, *sizes)"""
        return _shaped(table, self.dims, self.sizes, what)

    def conditional(self, table: Tensor) -> Tensor:
        """A law of the hidden dims given the visible ones. # shape: (*batch, V, H)"""
        folded = self.fold(self.shaped(table, "the recognition"))
        check_law(folded, 1, "the recognition")
        return folded.double()

    def visible_law(self, table: Tensor, what: str) -> Tensor:
        """A visible law that was given, by state, in float64. # shape: (*batch, V)"""
        names = self.visible
        law = _law(table, names, self.sizes_of(names), what)
        return law.reshape(*law.shape[: law.dim() - len(names)], self.states[0])


def named(dims: Sequence[str] | str, what: str) -> tuple[str, ...]:
    """Names of dims as a tuple, each of them once."""
    names = (dims,) if isinstance(dims, str) else tuple(dims)
    if not names or len(set(names)) < len(names):
        raise errors.ArgumentError(
            f"{what}={names!r} are not distinct names of dims. Mend: one name for each dim of the "
            'table, such as dims=("h", "y", "z").'
        )
    return names


def _law(table: Tensor, names: tuple[str, ...], sizes: tuple[int, ...], what: str) -> Tensor:
    table = _shaped(table, names, sizes, what)
    check_law(table, len(names), what)
    return table.double()


def _shaped(table: Tensor, names: tuple[str, ...], sizes: tuple[int, ...], what: str) -> Tensor:
    table = torch.as_tensor(table)
    shape = tuple(table.shape)
    if len(shape) < len(names) or shape[len(shape) - len(names) :] != sizes:
        raise errors.ShapeError(
            f"{what} has the shape {shape}, and not {sizes} of the dims {', '.join(names)} on its "
            "right. Mend: a table with one entry for each joint value of these, batches in front."
        )
    return table


def check_law(table: Tensor, dims: int, what: str) -> None:
    """Refuse what is no law.

    :param dims: how many dims on the right a law has.
    :raises NonFiniteError: if there is a NaN or an infinite entry.
    :raises ProbabilityError: if there is a negative entry, or they do not sum to 1.
    """
    if not bool(torch.isfinite(table).all()):
        raise errors.NonFiniteError(
            f"{what} has an entry that is NaN or infinite. Mend: look at the parameter there; "
            "log-probabilities of -inf are best written as probabilities of 0."
        )
    total = table.double().sum(tuple(range(-dims, 0)))
    least = float(table.min())
    if least < 0.0:
        raise errors.ProbabilityError(
            f"{what} has the entry {least:.3g}, and probabilities are not negative. Mend: keep the "
            "parameter where it is a law, or write the law in unconstrained numbers (softmax, "
            "sigmoid)."
        )
    worst = float(total.flatten()[(total - 1.0).abs().argmax()])
    if abs(worst - 1.0) > rounded_sum(table.dtype):
        raise errors.ProbabilityError(
            f"{what} sums to {worst:.6g} and not to 1. Mend: divide it by its sum, "
            "table / table.sum()."
        )


def rounded_sum(dtype: torch.dtype) -> float:
    """How far from 1 rounding may bring a sum of probabilities."""
    return float(torch.finfo(dtype).eps ** 0.5) if dtype.is_floating_point else 0.0


def places(values: Mapping[str, Tensor], supports: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Which of the values of its dim each datum is. # shape of each: (N,)"""
    if not isinstance(values, Mapping):
        raise errors.ArgumentError(
            f"data are a {type(values).__name__}, and not by name. Mend: a mapping such as "
            f"{{{next(iter(supports))!r}: values}}."
        )
    found = {}
    for name, support in supports.items():
        if name not in values:
            raise errors.UnknownNameError(
                f"there are no data of the visible dim {name!r}, only of "
                f"{', '.join(map(repr, values)) or 'nothing'}. Mend: data of every visible dim, "
                f"{', '.join(map(repr, supports))}."
            )
        value = torch.as_tensor(values[name])
        event = tuple(support.shape[1:])
        if value.dim() < len(event) or tuple(value.shape[value.dim() - len(event) :]) != event:
            raise errors.ShapeError(
                f"data of {name!r} have the shape {tuple(value.shape)}, and one datum of it has "
                f"the shape {event}. Mend: a row for each datum, of that shape."
            )
        same = value.unsqueeze(-support.dim()) == support
        same = same.flatten(same.dim() - support.dim() + 1).all(-1) if support.dim() > 1 else same
        if not bool(same.any(-1).all()):
            raise errors.SupportError(
                f"some data of {name!r} are none of its {len(support)} values, "
                f"{support.flatten(0).tolist()[:8]}. Mend: map them to these."
            )
        found[name] = same.long().argmax(-1)
    return found
