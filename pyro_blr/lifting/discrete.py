# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Products of discrete latents under a factorised q.

A power of a discrete element is a sum over its values, ``z^p = sum_k v_k^p [z = k]``, so that every
product is one of indicators. Different elements are independent; of two that are the same element,

    [z_i = k] [z_j = l]  =  [k = l] [z_i = k]      where i = j,

which :func:`separated` writes out, so that what is left are products of different elements.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from . import constants, host
from .axes import Address, Axis, Gather, Renaming, all_axes, device_of, grid
from .coincidence import coincidence, same_everywhere
from .terms import Atom, Constant, NotPolynomial, Term


@dataclass(frozen=True)
class _Partial:
    """A product on its way: ``seen`` are indicators of different elements, ``left`` others.

    Both by their places in the product that was begun with: whether two of them may be the same
    element is asked there, before axes are replaced.
    """

    rest: Term
    seen: tuple[tuple[int, Atom], ...]
    left: tuple[tuple[int, Atom], ...]

    def times(self, number: float, tables: tuple[Constant, ...], renaming: Renaming) -> "_Partial":
        """The product with more factors, and axes replaced in all of it."""
        rest = self.rest.renamed(renaming).times(Term(number, tables, ()))
        seen, left = (
            tuple((i, a.renamed(renaming)) for i, a in given) for given in (self.seen, self.left)
        )
        return _Partial(rest, seen, left)

    def joined(self, place: int, out: tuple[Axis, ...], with_table: bool) -> "_Partial":
        """The product where the first that is left is the element seen at a place.

        :param with_table: whether that is so in some places only.
        """
        partial = self
        if with_table:
            mine, theirs = partial.left[0][1].where[:-1], partial.seen[place][1].where[:-1]
            partial = partial.times(1.0, *coincidence(theirs, mine, out))
        mine, theirs = partial.left[0][1].where[-1:], partial.seen[place][1].where[-1:]
        rest = _Partial(partial.rest, partial.seen, partial.left[1:])
        return rest.times(1.0, *coincidence(theirs, mine, out))

    def apart(self) -> "_Partial":
        """The product where the first that is left is seen."""
        return _Partial(self.rest, (*self.seen, self.left[0]), self.left[1:])


def separated(term: Term, out: tuple[Axis, ...]) -> list[Term]:
    """The term as a sum of products whose discrete elements are all different ones.

    :raises NotPolynomial: for a logarithm of a discrete latent, or a power that is not finite.
    """
    others = tuple(a for a in term.atoms if not a.site.is_discrete)
    rest = Term(term.number, term.constants, others, term.exponentials)
    indicators: tuple[Atom, ...] = ()
    for atom in term.atoms:
        if atom.site.is_discrete:
            values, indicator = _indicator(atom)
            rest = rest.times(Term(1.0, values, ()))
            indicators += (indicator,)
    begun = _one_of_each(_Partial(rest, (), tuple(enumerate(indicators))), out)
    atoms = dict(begun.seen)
    meet = {(i, j) for i in atoms for j in atoms if i != j and _may_meet(atoms[i], atoms[j])}
    done: list[Term] = []
    waiting = [_Partial(begun.rest, (), begun.seen)]
    while waiting:
        partial = waiting.pop()
        if partial.left:
            waiting.extend(reversed(_next(partial, meet, out)))
        else:
            seen = tuple(a for _, a in partial.seen)
            done.append(partial.rest.times(Term(1.0, (), seen)))
    return done


def _one_of_each(partial: _Partial, out: tuple[Axis, ...]) -> _Partial:
    """The product with one indicator for each element that is the same everywhere."""
    while partial.left:
        first = partial.left[0][1]
        known = [i for i, (_, a) in enumerate(partial.seen) if _is_same(a, first)]
        partial = partial.joined(known[0], out, False) if known else partial.apart()
    return partial


def _is_same(first: Atom, second: Atom) -> bool:
    pairs = zip(first.where[:-1], second.where[:-1], strict=False)
    return first.site is second.site and all(same_everywhere(v, w) for v, w in pairs)


def _may_meet(first: Atom, second: Atom) -> bool:
    mine, theirs = first.where[:-1], second.where[:-1]
    return first.site is second.site and not _never_same(mine, theirs)


def _next(partial: _Partial, meet: set[tuple[int, int]], out: tuple[Axis, ...]) -> list[_Partial]:
    """The first element that is left is another one, or coincides with one that was seen.

    Those seen are different, so that at most one of them is the same, and "none is" is
    ``1 - sum [same]``.
    """
    found = [partial.apart()]
    number = partial.left[0][0]
    for place, (other, atom) in enumerate(partial.seen):
        if (number, other) in meet:
            mine, theirs = partial.left[0][1].where[:-1], atom.where[:-1]
            same = partial.times(-1.0, *coincidence(theirs, mine, out))
            found += [same.apart(), partial.joined(place, out, True)]
    return found


def _never_same(first: tuple[Address, ...], second: tuple[Address, ...]) -> bool:
    """Whether index tables show that two addresses never name the same element."""
    for x, y in zip(first, second, strict=True):
        axes = all_axes((x, y))
        fixed = _is_table(x) or _is_table(y)
        if not fixed or (set(_axes(x)).isdisjoint(_axes(y)) and len(axes) > 1):
            continue
        device = device_of((x, y))
        tables = tuple(grid(a, axes, device) for a in (x, y))
        if all(map(host.readable, tables)) and constants.memo(_are_apart, tables):
            return True
    return False


def _is_table(address: Address) -> bool:
    return isinstance(address, Gather)


def _axes(address: Address) -> tuple[Axis, ...]:
    return address.axes if isinstance(address, Gather) else (address,)


def _are_apart(first: Tensor, second: Tensor) -> bool:
    return host.truth((first != second).all())


def _indicator(atom: Atom) -> tuple[tuple[Constant, ...], Atom]:
    """An atom as values times an indicator, summed over a new axis of the values."""
    site = atom.site
    if atom.kind == "is":
        return (), atom
    if atom.kind != "power":
        raise NotPolynomial(f"`{atom.kind}` of the discrete latent {site.name}")
    if site.event_dim:
        if atom.power <= 0:
            raise NotPolynomial(f"power {atom.power:g} of the discrete latent {site.name}")
        return (), Atom(site, "is", 1, atom.where)
    values = torch.tensor(site.levels, dtype=torch.float64) ** atom.power
    if not bool(values.isfinite().all()):
        raise NotPolynomial(f"power {atom.power:g} of the discrete latent {site.name}")
    if len(values) == 1:
        return (Constant(values[0], ()),), Atom(site, "is", 1, (*atom.where, Gather(0, ())))
    axis = Axis(len(values))
    return (Constant(values, (axis,)),), Atom(site, "is", 1, (*atom.where, axis))
