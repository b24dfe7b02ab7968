# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities as sums over the values of the few discrete elements that each one depends on.

Where an element of a log density depends on the elements ``z_1, ..., z_m`` of discrete latents,

    log p = sum_k [z_1 = k_1] ... [z_m = k_m] log p(k_1, ..., k_m),

whatever the program did with them: an index, a comparison, a product. So the recorded program is
run again with the values in the place of the discrete elements, each along a dim of its own in
front, and with everything else still lifted. Where the log density at given values is a polynomial
of the other latents, the sum is one too, and its expectation is exact under a factorised q.

Where the dims of an element stand among those of the log density is known by counting from the
right, as for every broadcast. A program that goes another way (the elements of ``W[:, z]``) is
refused, and so is one that reads several elements: both show when the sum is compared with the
program itself, at values drawn at random.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from .agreement import agrees, agrees_at_values
from .axes import Address, Axis, Gather, all_axes, same_address
from .memory import BYTES, available_bytes
from .polynomial import Polynomial, polynomial
from .recorded import LogDensity, density_dtype, doubled, realised
from .tensor import Call, LiftedTensor, lifted_in, program, taken_apart
from .terms import Atom, Constant, LatentSite, NotPolynomial, Term
from .values import value_at
from .wrappers import log_density

#: How many dims may stand behind those of an element: a one-hot vector's, an event's.
MOST_BEHIND = 2


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


@dataclass(frozen=True, eq=False)
class Enumeration:
    """A log density as a sum over values of discrete elements.

    :param given: the log density at each joint value. # shape: (K_1, ..., K_m, *log density)
    :param weights: the product of indicators. # shape: that of ``given`` in full
    :param depth: m.
    """

    given: Any
    weights: Polynomial
    depth: int

    def summed(self) -> Polynomial:
        """The sum, where the log density at given values is a polynomial.

        :raises NotPolynomial: if it is none.
        """
        given = self.given
        if isinstance(given, LiftedTensor):
            if given.poly is None:
                raise NotPolynomial(given.reason)
            given = given.poly
        given = given if isinstance(given, Polynomial) else polynomial(given)
        return (self.weights * given).sum(range(self.depth))


class _Refused(Exception):
    """Why a log density is no such sum."""


def over_values(node: LiftedTensor) -> LiftedTensor:
    """A log density of discrete latents as a sum over their values, where it can be one.

    One that has a polynomial is left as it is. The recorded program is kept in any case.
    """
    if not any(s.is_discrete for s in node.sites) or is_expected(node.poly):
        return node
    try:
        found = _enumeration(node)
        return _summed(node, found)
    except _Refused as error:
        return _by_inputs(node, str(error))


def _summed(node: LiftedTensor, found: Enumeration) -> LiftedTensor:
    """The sum as a polynomial; where it is none, the log density with its enumeration.

    :raises _Refused: if the sum is not what the program says.
    """
    result = _copy(node, None, "")
    try:
        result.poly = found.summed()
        right = agrees(node, result.poly)
    except NotPolynomial as error:
        result.reason, result.enumeration = str(error), found
        right = agrees_at_values(node, found.weights, found.given)
    if not right:
        names = ", ".join(s.name for s in node.sites if s.is_discrete)
        raise _Refused(f"an element of it depends on several elements of {names}")
    return result


def _by_inputs(node: LiftedTensor, reason: str) -> LiftedTensor:
    """A log density whose own inputs are sums over values: it may itself be a sum of them."""
    call = node.call
    if call is None or isinstance(call.function, LogDensity):
        return _copy(node, None, reason)
    summed = {id(n): over_values(n) for n in call.inputs}
    if any(not is_expected(n.poly) for n in summed.values()):
        return _copy(node, None, reason)
    outer = _run(node, summed)
    known = isinstance(outer, LiftedTensor) and is_expected(outer.poly)
    return _copy(node, outer.poly if known else None, "" if known else reason)


def is_expected(poly: Polynomial | None) -> bool:
    """Whether discrete latents occur in a polynomial by powers alone."""
    return poly is not None and all(
        a.kind == "is" or (a.kind == "power" and a.power > 0)
        for t in poly.terms
        for a in t.atoms
        if a.site.is_discrete
    )


def _copy(node: LiftedTensor, poly: Polynomial | None, reason: str) -> LiftedTensor:
    shape, _ = node.kind
    dtype = density_dtype(node)
    own = {"site": node.site, "call": node.call, "output": node.output, "reason": reason}
    return LiftedTensor(shape, dtype, node.device, poly=poly, **own)  # type: ignore[arg-type]


def _enumeration(density: LiftedTensor) -> Enumeration:
    """The log density at every joint value of its discrete elements."""
    axes = tuple(Axis(n) if n != 1 else None for n in density.shape)
    elements: list[Element] = []
    placed = [(node, *_place(node, axes, elements)) for node in _cut(density)]
    _check_size(density, elements)
    given = {id(node): _at_values(poly, pad, node, elements) for node, poly, pad in placed}
    try:
        value = _run(density, given)
    except Exception as error:  # the program's own, at dims that it does not expect
        raise _Refused(
            f"{_named(elements)} by a program that does not broadcast: {error}"
        ) from None
    sizes = tuple(e.count for e in elements)
    full = (*sizes, *density.shape)
    if not _fits(tuple(value.shape), full):
        raise _Refused(f"{_named(elements)} by a program that does not broadcast")
    dims = (*(e.axis for e in elements), *axes)
    weights = Polynomial(dims, (Term(1.0, (), tuple(e.indicator for e in elements)),))
    return Enumeration(value, weights, len(elements))


def _fits(own: tuple[int, ...], full: tuple[int, ...]) -> bool:
    behind = full[len(full) - len(own) :] if len(own) <= len(full) else ()
    return len(own) <= len(full) and all(a in (1, b) for a, b in zip(own, behind, strict=True))


def _named(elements: Iterable[Element]) -> str:
    names = dict.fromkeys(e.site.name for e in elements)
    return f"it depends on the discrete latents {', '.join(names)}"


def _cut(density: LiftedTensor) -> list[LiftedTensor]:
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


def _place(
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
        raise _Refused(f"it depends on several elements of the discrete latents {names}")
    found = _alignment(poly, used, axes)
    if found is None:
        raise _Refused(f"the dims of the discrete latent {atoms[0].site.name} are not the site's")
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


def _at_values(poly: Polynomial, pad: int, node: LiftedTensor, elements: list[Element]) -> Any:
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
    call = Call(_AtLatents(value, node.kind[1]), _leaves(node), {})
    return LiftedTensor(value.shape, node.kind[1], node.device, poly=value, call=call)


def _leaves(node: LiftedTensor) -> tuple[LiftedTensor, ...]:
    """The latents that a node depends on, discrete ones apart."""
    return tuple(n for n in program([node]) if n.site is not None and not n.site.is_discrete)


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


def _check_size(density: LiftedTensor, elements: list[Element]) -> None:
    # Constants along values and elements are folded with the rest where other latents are lifted.
    is_constant = all(s.is_discrete for s in density.sites)
    count = prod(e.count for e in elements) * (density.numel() if is_constant else 1)
    free = available_bytes(density.device)
    if free is not None and 3 * BYTES * count > free:
        raise _Refused(
            f"{_named(elements)}, {len(elements)} elements at once: {count} joint values"
        )


def _run(density: LiftedTensor, given: Mapping[int, Any]) -> Any:
    """The recorded program with values in the place of some nodes, all else as it was lifted."""
    done: dict[int, Any] = dict(given)
    calls: dict[int, list[Any]] = {}

    def valued(item: Any) -> Any:
        if isinstance(item, LiftedTensor):
            return done.get(id(item), item)
        if isinstance(item, slice):
            return slice(*(valued(i) for i in (item.start, item.stop, item.step)))
        if isinstance(item, list | tuple) and lifted_in(item):
            return type(item)(valued(i) for i in item)
        return item

    for node in program([density], given=given):
        call = node.call
        if id(node) in done or call is None or not any(id(n) in done for n in call.inputs):
            continue
        if id(call) not in calls:
            args = [valued(a) for a in call.args]
            kwargs = {k: valued(v) for k, v in call.kwargs.items()}
            calls[id(call)] = taken_apart(_called(call.function, args, kwargs))[0]
        done[id(node)] = calls[id(call)][node.output]
    return done[id(density)]


def _called(function: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if not isinstance(function, LogDensity):
        return function(*args, **kwargs)
    wide = any(isinstance(t, Tensor) and t.dtype == torch.float64 for t in args)
    value, *parts = (doubled(a) if wide else a for a in args)
    values = {id(t): v for t, v in zip(function.lifted, parts, strict=True)}
    return log_density(realised(function.fn, values, wide=wide), value)
