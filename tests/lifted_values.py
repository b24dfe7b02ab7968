# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Lifted tensors of given shapes, and the values of their polynomials at points, by plain indexing.

The evaluation shares nothing with the package's contractions: every factor of a product is indexed
on the full grid of the product's axes, and the axes outside the result are summed.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyro_blr.lifting import operations
from pyro_blr.lifting.axes import Address, Axis
from pyro_blr.lifting.polynomial import Polynomial
from pyro_blr.lifting.tensor import LiftedTensor
from pyro_blr.lifting.terms import Atom, LatentSite, Term

assert operations  # importing it enters the torch operations into the table

FUNCTIONS = {"log": torch.log, "log1m": lambda z: torch.log(1 - z)}


def lifted(name: str, *shape: int, gaussian: bool = True) -> LiftedTensor:
    site = LatentSite(name, tuple(shape), len(shape), gaussian)
    return LiftedTensor.of_site(site, torch.float64, torch.get_default_device())


def value_at(poly: Polynomial, point: dict[str, Tensor]) -> Tensor:
    """The value of a polynomial where each latent has a value. # shape: poly.shape"""
    total = torch.zeros(poly.shape)
    for term in poly.terms:
        total = total + _along(term, poly.dims, point)
    return total


def _along(term: Term, dims: Sequence[Axis | None], point: dict[str, Tensor]) -> Tensor:
    """A product along dims, broadcast over those that it does not run along."""
    value = _term(term, tuple(a for a in dims if a), point)
    return value.reshape([a.size if a and a in term.axes else 1 for a in dims])


def _term(term: Term, out: tuple[Axis, ...], point: dict[str, Tensor]) -> Tensor:
    axes = [a for a in out if a in term.axes] + [a for a in term.axes if a not in out]
    product = torch.full([a.size for a in axes], term.number)
    for constant in term.constants:
        product = product * _picked(constant.tensor, constant.where, axes)
    for atom in term.atoms:
        product = product * _statistic(atom, _picked(point[atom.site.name], atom.where, axes))
    for exponential in term.exponentials:
        exponent = sum((_along(t, axes, point) for t in exponential.terms), torch.zeros(()))
        product = product * exponent.exp()
    summed = [i for i, a in enumerate(axes) if a not in out]
    return product.sum(summed) if summed else product


def _statistic(atom: Atom, value: Tensor) -> Tensor:
    if atom.kind == "power":
        return value**atom.power
    return FUNCTIONS[atom.kind](value)


def _picked(tensor: Tensor, where: tuple[Address, ...], axes: list[Axis]) -> Tensor:
    if not where:
        return tensor
    tensor = tensor.to(torch.get_default_device())  # what is made of shapes alone is on the host
    return tensor[tuple(_positions(w, axes) for w in where)]


def _positions(address: Address, axes: list[Axis]) -> Tensor:
    own = (address,) if isinstance(address, Axis) else address.axes
    index: Any = range(address.size) if isinstance(address, Axis) else address.index
    table = torch.as_tensor(list(index) if isinstance(index, range) else index)
    order = sorted(range(len(own)), key=lambda i: axes.index(own[i]))
    shape = [a.size if a in own else 1 for a in axes]
    return table.permute(order).reshape(shape)
