# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Hashable names of polynomials: two of one name are the same up to the names of their axes.

What is planned for a polynomial (the order of a contraction, the moments that it takes) is kept
under its name, and serves whenever a trace makes the same one anew.
"""

from collections.abc import Callable, Iterable

from torch import Tensor

from . import constants
from .axes import Address, Axis
from .polynomial import Dims, Polynomial
from .terms import Term


def key_of(value: Polynomial) -> tuple[object, tuple[Tensor, ...]]:
    """A hashable name of a polynomial up to the names of its axes, and its free constants.

    Constants that require a gradient are named by their place only, and are returned: the same plan
    serves whatever they are.
    """
    free: list[Tensor] = []
    return _key(value.dims, value.terms, free), tuple(free)


def _key(dims: Dims, terms: tuple[Term, ...], free: list[Tensor]) -> object:
    numbers: dict[Axis, int] = {}

    def number(axis: Axis) -> tuple[int, int]:
        return numbers.setdefault(axis, len(numbers)), axis.size

    def address(where: tuple[Address, ...]) -> tuple[object, ...]:
        return tuple(_address_key(w, number) for w in where)

    head = tuple(number(a) if a else None for a in dims)
    body = tuple(
        (
            t.number,
            tuple((_tensor_key(c.tensor, free), *address(c.where)) for c in t.constants),
            tuple((a.site.name, a.kind, a.power, *address(a.where)) for a in t.atoms),
            tuple(
                (_key(e.exponent.dims, e.exponent.terms, free), e.power, *address(e.where))
                for e in t.exponentials
            ),
        )
        for t in terms
    )
    return head, body


def _address_key(address: Address, number: Callable[[Axis], tuple[int, int]]) -> object:
    """A hashable name of an address, given numbers for its axes."""
    if isinstance(address, Axis):
        return number(address)
    index = address.index
    named = constants.key_of(index) if isinstance(index, Tensor) else index
    return (named, tuple(number(a) for a in address.axes))


def _tensor_key(tensor: Tensor, free: list[Tensor]) -> object:
    if not tensor.requires_grad:
        return constants.key_of(tensor)
    if not any(t is tensor for t in free):
        free.append(tensor)
    slot = next(i for i, t in enumerate(free) if t is tensor)
    return ("free", slot, tensor.shape, tensor.dtype, tensor.device)


def constants_of(terms: Iterable[Term]) -> tuple[Tensor, ...]:
    """Every constant tensor of some terms, those inside exponents among them."""
    found: tuple[Tensor, ...] = ()
    for term in terms:
        found += tuple(c.tensor for c in term.constants)
        for exponential in term.exponentials:
            found += constants_of(exponential.exponent.terms)
    return found
