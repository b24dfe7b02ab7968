# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Polynomials at values of their latents."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .axes import Axis, common_device, take
from .contraction import Operand, contract, together
from .polynomial import Polynomial
from .terms import Atom, Exponential, LatentSite, Term

Values = Mapping[LatentSite, Tensor]


def value_at(poly: Polynomial, values: Values) -> Tensor:
    """The number that a polynomial is at each element. # shape: the polynomial's

    :param values: of each latent that occurs, of discrete ones as the model has them.
    """
    out = poly.out
    total = torch.zeros([a.size for a in out], dtype=torch.float64)
    for term in poly.terms:
        own = _term_at(term, values, out)
        device = common_device((total, own))
        total = total.to(device) + own.to(device)
    return total.reshape([a.size if a else 1 for a in poly.dims])


def _term_at(term: Term, values: Values, out: tuple[Axis, ...]) -> Tensor:
    operands: list[Operand] = [take(c.tensor.double(), c.where) for c in term.constants]
    operands += [take(_atom_at(a, values), a.where) for a in term.atoms]
    operands += [take(_exponential_at(e, values), e.where) for e in term.exponentials]
    if not operands:
        return torch.full([a.size for a in out], term.number, dtype=torch.float64)
    present = {a for _, axes in operands for a in axes}
    value = contract(together(operands), tuple(a for a in out if a in present)) * term.number
    return value.reshape([a.size if a in present else 1 for a in out])


def _atom_at(atom: Atom, values: Values) -> Tensor:
    value = values[atom.site].double()
    if atom.kind == "is":
        if atom.site.event_dim:
            return value
        levels = torch.tensor(atom.site.levels, dtype=torch.float64, device=value.device)
        return (value.unsqueeze(-1) == levels).double()
    if atom.kind == "log":
        return value.log()
    if atom.kind == "log1m":
        return (-value).log1p()
    return torch.logdet(value) if atom.kind == "logdet" else value**atom.power


def _exponential_at(exponential: Exponential, values: Values) -> Tensor:
    inner = Polynomial(exponential.exponent.dims, exponential.exponent.terms)
    return (value_at(inner, values) * exponential.power).exp()
