# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which elements of discrete latents a log density depends on, and what holds at their values."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .axes import Address, Axis, Gather, all_axes, same_address
from .polynomial import Polynomial
from .tensor import Call, LiftedTensor, program
from .terms import Atom, Constant, LatentSite, Term
from .values import value_at

#: How many dims may stand behind those of an element: a one-hot vector's, an event's.
MOST_BEHIND = 2


class Refused(Exception):
    """Why a log density is no such sum."""


@dataclass(frozen=True, eq=False)
class Element:
    """An element of a discrete latent for each element of a log density.

    :param where: its addresses along the latent's batch dims, along the log density's axes.
    :param axis: the axis of its values; None if there is only one.
    """

    site: LatentSite
    where: tuple[Address, ...]
    axis: Axis | None

    @property
    def count(self) -> int:
        """The number of values."""
        return len(self.site.levels)

    @property
    def indicator(self) -> Atom:
        """1 where it has a value, along the axis of values."""
        return Atom(self.site, "is", 1, (*self.where, self.axis or Gather(0, ())))

    def is_at(self, site: LatentSite, where: tuple[Address, ...]) -> bool:
        """Whether an address names this element."""
        pairs = zip(self.where, where, strict=True)
        return site is self.site and all(same_address(v, w) for v, w in pairs)


def is_expected(poly: Polynomial | None) -> bool:
    """Whether discrete latents occur in a polynomial by powers alone."""
    return poly is not None and all(
        a.kind == "is" or (a.kind == "power" and a.power > 0)
        for t in poly.terms
        for a in t.atoms
        if a.site.is_discrete
    )


def cut(density: LiftedTensor) -> list[LiftedTensor]:
    """The nodes nearest to the log density that are polynomials of discrete latents."""
    found: dict[int, LiftedTensor] = {}
    seen: set[int] = set()
    stack = [density]
    while stack:
        node = stack.pop()
        if id(node) in seen or not any(s.is_discrete for s in node.sites):
            continue
        seen.add(id(node))
        if is_expected(node.poly):
            found[id(node)] = node
        elif node.call is not None:
            stack.extend(node.call.inputs)
    return sorted(found.values(), key=lambda n: -1 if n.call is None else n.call.order)


def place(
    node: LiftedTensor, axes: tuple[Axis | None, ...], elements: list[Element]
) -> tuple[Polynomial, int]:
    """A node's polynomial along the log density's axes; its discrete elements join the others.

    :returns: the polynomial, and how many dims the log density has in front of the node's.
    """
    assert node.poly is not None
    poly = node.poly.fresh()
    atoms = [a for t in poly.terms for a in t.atoms if a.site.is_discrete]
    used = {x for a in atoms for x in all_axes(_batch(a))}
    if not used <= set(poly.out):
        names = ", ".join(dict.fromkeys(a.site.name for a in atoms))
        raise Refused(f"it depends on several elements of the discrete latents {names}")
    found = _alignment(poly, used, axes)
    if found is None:
        raise Refused(f"the dims of the discrete latent {atoms[0].site.name} are not the site's")
    renaming, pad = found
    poly = poly.renamed(renaming)
    for atom in (a for t in poly.terms for a in t.atoms if a.site.is_discrete):
        if not any(e.is_at(atom.site, _batch(atom)) for e in elements):
            count = len(atom.site.levels)
            elements.append(Element(atom.site, _batch(atom), Axis(count) if count > 1 else None))
    return poly, pad


def _batch(atom: Atom) -> tuple[Address, ...]:
    """The addresses of an atom without the one of its value."""
    has_value = atom.kind == "is" or atom.site.event_dim
    return atom.where[:-1] if has_value else atom.where


def _alignment(
    poly: Polynomial, used: set[Axis], axes: tuple[Axis | None, ...]
) -> tuple[dict[Axis, Address], int] | None:
    """The log density's axes in the place of those that elements run along, and the dims of size 1
    that are put in front of the node's.
    """
    for behind in range(MOST_BEHIND + 1):
        renaming: dict[Axis, Address] = {}
        for dim, axis in enumerate(poly.dims):
            place = len(axes) + behind - poly.ndim + dim
            if axis not in used:
                continue
            other = axes[place] if 0 <= place < len(axes) else None
            if other is None or axis is None or other.size != axis.size:
                break
            renaming[axis] = other
        else:
            return renaming, max(0, len(axes) + behind - poly.ndim)
    return None


def at_values(poly: Polynomial, pad: int, node: LiftedTensor, elements: list[Element]) -> Any:
    """A node at every joint value of its discrete elements: lifted if other latents occur."""
    terms = tuple(_term_at_values(t, elements) for t in poly.terms)
    present = {a for t in terms for a in t.axes}
    leading = [e.axis if e.axis in present else None for e in elements]
    own = [a if a in present else None for a in poly.dims]
    value = Polynomial((*leading, *(None,) * pad, *own), terms)
    if value.is_constant:
        table = value_at(value, {}).to(node.device)
        _, dtype = node.kind
        return table.round().to(dtype) if not dtype.is_floating_point else table.to(dtype)
    leaves = {n.site: n for n in program([node]) if n.site is not None}
    call = Call(_AtLatents(value, node.kind[1]), tuple(leaves[s] for s in value.sites), {})
    return LiftedTensor(value.shape, node.kind[1], node.device, poly=value, call=call)


class _AtLatents:
    """A polynomial as a function of its latents, to be replayed at their values."""

    __name__ = "value_at"

    def __init__(self, poly: Polynomial, dtype: torch.dtype) -> None:
        self.poly, self.dtype = poly, dtype
        self.sites = poly.sites

    def __call__(self, *values: Tensor) -> Tensor:
        return value_at(self.poly, dict(zip(self.sites, values, strict=True))).to(self.dtype)


def _term_at_values(term: Term, elements: list[Element]) -> Term:
    """A product with values in the place of discrete elements."""
    atoms = list(term.atoms)
    result = Term(term.number, term.constants, (), term.exponentials)
    while atoms:
        atom = atoms.pop(0)
        if not atom.site.is_discrete:
            result = result.times(Term(1.0, (), (atom,)))
            continue
        element = next(e for e in elements if e.is_at(atom.site, _batch(atom)))
        if atom.kind == "is" or atom.site.event_dim:
            result = result.times(Term(1.0, _chosen(atom.where[-1], element), ()))
        else:
            levels = torch.tensor(atom.site.levels, dtype=torch.float64) ** atom.power
            where = () if element.axis is None else (element.axis,)
            constant = Constant(levels.reshape([a.size for a in where]), where)
            result = result.times(Term(1.0, (constant,), ()))
    return result


def _chosen(address: Address, element: Element) -> tuple[Constant, ...]:
    """1 where an address along the values is the value of an element."""
    if element.axis is None:
        return ()
    eye = torch.eye(element.count, dtype=torch.float64)
    return (Constant(eye, (element.axis, address)),)
