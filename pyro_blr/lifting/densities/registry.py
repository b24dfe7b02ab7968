# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The table of log densities: one row a Pyro distribution, open to users.

A row has a formula and a reader. The formula takes the value and the distribution's arguments, each
a polynomial, a tensor or a number, and returns the log density along the batch dims; it raises
``NotPolynomial`` where the form that it is given has none. The reader takes the arguments, under
the formula's names, from an instance of the distribution.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..polynomial import Polynomial

Formula = Callable[..., Polynomial]
Reader = Callable[[Any], dict[str, Any]]


@dataclass(frozen=True)
class Density:
    """A row of the table: a formula, and how its arguments are read from an instance."""

    formula: Formula
    reads: Reader


_DENSITIES: dict[type, Density] = {}


def as_given(fn: Any) -> dict[str, Any]:
    """The arguments that an instance holds as they were given (``probs`` or ``logits``)."""
    return {name: fn.__dict__[name] for name in type(fn).arg_constraints if name in fn.__dict__}


def attributes(*names: str) -> Reader:
    """A reader of attributes that the formula names as the distribution does."""

    def read(fn: Any) -> dict[str, Any]:
        return {name: getattr(fn, name) for name in names}

    return read


def register_density(distribution: type, reads: Reader = as_given) -> Callable[[Formula], Formula]:
    """Enter a formula for a Pyro distribution class; a decorator.

    :param distribution: the class; an earlier formula of it is replaced.
    :param reads: takes the formula's arguments from an instance.
    """

    def enter(formula: Formula) -> Formula:
        _DENSITIES[distribution] = Density(formula, reads)
        return formula

    return enter


def density_of(distribution: type) -> Density | None:
    """The row of a class, its own or one that it inherits; None where there is none.

    A subclass inherits a row only with the log density itself: if it changes neither ``log_prob``
    nor the parameters (an ``OrderedLogistic`` is a ``Categorical``, with other ones).
    """
    for base in distribution.__mro__:
        if base in _DENSITIES:
            same = _log_density(base) == _log_density(distribution)
            return _DENSITIES[base] if base is distribution or same else None
    return _of_parent(distribution)


def _of_parent(distribution: type) -> Density | None:
    """The row of a registered subclass with the same log density: torch's own Normal has one."""
    for entered, density in _DENSITIES.items():
        # Not issubclass, which asks the ABC of Pyro's classes: this runs for each site of a trace.
        inherits = distribution in entered.__mro__
        if inherits and _log_density(entered) == _log_density(distribution):
            return density
    return None


def _log_density(distribution: Any) -> tuple[Any, ...]:
    """What makes a class's log density: the function, and the names that it takes."""
    constraints = distribution.arg_constraints  # torch makes a property of a Uniform's
    names = tuple(constraints) if isinstance(constraints, dict) else constraints
    return distribution.log_prob, names


def takes_arguments_of(distribution: type) -> bool:
    """Whether a class with a row is constructed from the arguments that its formula takes."""
    return any(
        base in _DENSITIES and distribution.__init__ is base.__init__  # type: ignore[misc]
        for base in distribution.__mro__
    )


def registered() -> tuple[type, ...]:
    """The classes with a formula."""
    return tuple(_DENSITIES)
