# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which latents share a Gaussian block: those that are jointly linear-Gaussian and coupled.

Two elements are coupled if some factor has a term with the product of both (given the other blocks,
random precisions among them), or a predictor with the sum of both. A merge must leave every exact
term at most quadratic in the merged block: ``y ~ Normal(a * b, 1)`` has the term ``a^2 b^2``, so a
and b stay apart. Plates along which only equal elements are coupled (``a[g] + b[g] * x``) stay
batch dims; a subsampled plate always does, as a step moves the rows of its subsample alone.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from math import prod

from ..families import MultivariateNormal, Normal
from ..lifting.axes import all_axes, same_address
from ..lifting.blocks import Block, Placement
from ..lifting.polynomial import Polynomial
from ..lifting.predictor import find_predictor
from ..lifting.terms import Atom, Term
from .latents import Latent, Latents
from .trace import Traced

#: The largest merged block. A dense precision and its Cholesky factor, covariance and gradients
#: take about five matrices: 1024 elements need 5 * 8 MB and 0.05 s a factorisation on one core.
MAX_BLOCK_SIZE = 1024


@dataclass(eq=False)
class Group:
    """Sites that are to share a block; the plates along which different elements are coupled.

    :param couplings: the pairs of sites with a product.
    """

    names: list[str]
    broken: set[str] = field(default_factory=set)
    coupled: bool = False
    couplings: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Coupling:
    """A product of elements of two sites and the plates along which they may differ."""

    first: str
    second: str
    broken: frozenset[str]


def merge(
    traced: Traced, latents: Latents, chains: Sequence[Block] = ()
) -> tuple[list[Block], tuple[str, ...]]:
    """The blocks of ``blocks="auto"``, and a note for each merge that was too large.

    :param chains: blocks that were found before; no latent joins them.
    """
    held = {s.name: block for block in chains for s in block.sites}
    groups, notes = _groups(traced, latents, MAX_BLOCK_SIZE, held)
    blocks = list(chains)
    for group in groups:
        if group.coupled:
            blocks.append(_merged_block(group, latents))
        else:
            blocks.extend(latents[name].block() for name in group.names)
    order = {name: i for i, name in enumerate(latents)}
    ordered = sorted(blocks, key=lambda b: min(order[s.name] for s in b.sites))
    return ordered, tuple(dict.fromkeys(notes))


def linear_groups(traced: Traced, latents: Latents) -> list[Group]:
    """The latents that are jointly linear-Gaussian and coupled, however many elements they have.

    A Gaussian that is coupled with no other is a group of its own.
    """
    groups, _ = _groups(traced, latents, None, {})
    return [g for g in groups if all(_mergeable(latents[n]) for n in g.names)]


def _groups(
    traced: Traced, latents: Latents, limit: int | None, held: Mapping[str, Block]
) -> tuple[list[Group], list[str]]:
    """The latents by the blocks that they are to share, and a note for each that is not made.

    :param limit: the largest block.
    :param held: the latents that have their block already.
    """
    terms, pairs = _structure(traced, latents)
    groups = {name: Group([name]) for name in latents if name not in held}
    subsampled = {latents[n].plates[d][0] for n, dims in traced.rows.items() for d in dims}
    order = {name: i for i, name in enumerate(latents)}
    notes: list[str] = []
    for coupling in pairs:
        across = coupling.broken & subsampled
        ends = {coupling.first, coupling.second}
        if across:
            notes.append(_across(coupling, min(across)))
        elif ends & held.keys():
            if len({held.get(name) for name in ends}) > 1:
                notes.append(_beside_chain(coupling))
        else:
            _join(coupling, groups, _Joining(latents, order, terms, limit, notes))
    return list(dict.fromkeys(groups.values())), notes


def _beside_chain(coupling: Coupling) -> str:
    """The note on a latent that is coupled with a chain, and is no part of it."""
    return (
        f"{coupling.first} and {coupling.second} are coupled, and one of them is a chain along "
        "time, of which the other is no part: they stay apart"
    )


def _across(coupling: Coupling, plate: str) -> str:
    """The note on elements of a subsampled plate, which move a few at a time."""
    names = " and ".join(dict.fromkeys((coupling.first, coupling.second)))
    return f"{names} are coupled across the plate {plate!r}, which is subsampled: they stay apart"


def _mergeable(latent: Latent) -> bool:
    return latent.site.gaussian and latent.transform is None


def _structure(traced: Traced, latents: Latents) -> tuple[list[dict[str, int]], list[Coupling]]:
    """The degrees in the Gaussian sites of every exact term beyond 2, and all couplings."""
    degrees: list[dict[str, int]] = []
    pairs: dict[Coupling, None] = {}
    given = _GivenOthers(latents)
    for site in traced.sites:
        for node in site.lifted_factors:
            polynomial = node.poly
            if polynomial is not None and _splits(polynomial, latents):
                for term in polynomial.terms:
                    degrees.append(_degrees(term, latents))
                    pairs.update(dict.fromkeys(_term_couplings(term, latents)))
                    given.add(term)
            else:
                predictor = find_predictor(node)
                if not isinstance(predictor, str):
                    for scalar in predictor.values:
                        assert scalar.poly is not None
                        pairs.update(dict.fromkeys(_predictor_couplings(scalar.poly, latents)))
    # Terms that are at most quadratic in all sites together stay so under every merge.
    pairs.update(dict.fromkeys(given.couplings))
    return [d for d in degrees if sum(d.values()) > 2], list(pairs)


class _GivenOthers:
    """The couplings of two elements of a product of more, given the others: z and z' in a z z'.

    Not all pairs of a product can share a block, so latents that are in fewer products come first:
    the states of a chain, and not one of them with the coefficient of all.
    """

    def __init__(self, latents: Latents) -> None:
        self.latents = latents
        self._found: dict[Coupling, None] = {}
        self._times: dict[str, int] = {}

    def add(self, term: Term) -> None:
        """The couplings of one product."""
        elements = _elements(term, self.latents)
        if len(elements) < 3:
            return
        for name in {e.site.name for e in elements}:
            self._times[name] = self._times.get(name, 0) + 1
        for first, second in combinations(elements, 2):
            self._found.update(dict.fromkeys(_coupling(first, second, self.latents)))

    @property
    def couplings(self) -> list[Coupling]:
        """All of them, in the order in which they are to be taken."""
        times = self._times
        return sorted(self._found, key=lambda c: max(times[c.first], times[c.second]))


def _splits(polynomial: Polynomial, latents: Latents) -> bool:
    """Whether every term is at most quadratic in each site alone."""
    return all(max(_degrees(t, latents).values(), default=0) <= 2 for t in polynomial.terms)


def _degrees(term: Term, latents: Latents) -> dict[str, int]:
    result: dict[str, int] = {}
    for atom in term.atoms:
        if atom.kind == "power" and _mergeable(latents[atom.site.name]):
            result[atom.site.name] = result.get(atom.site.name, 0) + int(atom.power)
    return result


def _elements(term: Term, latents: Latents) -> list[Atom]:
    return [
        a
        for a in term.atoms
        if a.kind == "power" and _mergeable(latents[a.site.name])
        for _ in range(int(a.power))
    ]


def _term_couplings(term: Term, latents: Latents) -> Iterator[Coupling]:
    elements = _elements(term, latents)
    if len(elements) == 2:
        yield from _coupling(elements[0], elements[1], latents)
    if term.exponentials:
        # The factors of exp(a + b x) are one exponent, whose square couples a and b.
        dims = all_axes(w for e in term.exponentials for w in e.where)
        exponent = Polynomial(dims, (t for e in term.exponentials for t in e.terms))
        yield from _predictor_couplings(exponent, latents)


def _predictor_couplings(predictor: Polynomial, latents: Latents) -> Iterator[Coupling]:
    """The square of a predictor couples every element in it with every other."""
    predictor_atoms = [a for t in predictor.terms for a in _elements(t, latents)]
    twins = [a for t in predictor.fresh().terms for a in _elements(t, latents)]
    out = set(predictor.out)
    for i, first in enumerate(predictor_atoms):
        for j, second in enumerate(predictor_atoms[i:], start=i):
            # A contracted axis is summed twice in the square: the second sum runs on its own.
            contracted = any(a not in out for w in second.where for a in getattr(w, "axes", (w,)))
            yield from _coupling(first, twins[j] if contracted else second, latents)


def _coupling(first: Atom, second: Atom, latents: Latents) -> Iterator[Coupling]:
    a, b = latents[first.site.name], latents[second.site.name]
    mine = {name: first.where[d] for d, name in plate_names(a).items()}
    theirs = {name: second.where[d] for d, name in plate_names(b).items()}
    broken = {p for p in mine if p not in theirs or not same_address(mine[p], theirs[p])}
    broken |= {p for p in theirs if p not in mine}
    if a is not b or broken:
        names = sorted((a.name, b.name), key=list(latents).index)
        yield Coupling(names[0], names[1], frozenset(broken))


def plate_names(latent: Latent) -> dict[int, str]:
    """A name for each batch dim: its plate's, or one of its own."""
    return {
        d: latent.plates[d][0] if d in latent.plates else f"{latent.name}[{d}]"
        for d in latent.batch_dims
    }


@dataclass(frozen=True)
class _Joining:
    """What joins of groups depend on.

    :param order: the place of each latent.
    :param terms: the degrees of terms that are more than quadratic.
    :param limit: the largest block.
    :param notes: on what is not joined, to which more are added.
    """

    latents: Latents
    order: dict[str, int]
    terms: list[dict[str, int]]
    limit: int | None
    notes: list[str]


def _join(coupling: Coupling, groups: dict[str, Group], how: _Joining) -> None:
    left, right = groups[coupling.first], groups[coupling.second]
    pair = (coupling.first, coupling.second)
    if left is right and left.coupled and coupling.broken <= left.broken:
        left.couplings.append(pair)
        return
    names = list(dict.fromkeys((*left.names, *right.names)))
    broken = left.broken | right.broken | coupling.broken
    if any(sum(term.get(n, 0) for n in names) > 2 for term in how.terms):
        return
    couplings = [*left.couplings, *(right.couplings if right is not left else ()), pair]
    ordered = sorted(names, key=how.order.__getitem__)
    joined = Group(ordered, broken, coupled=True, couplings=couplings)
    size = 0 if how.limit is None else _event_size(joined, how.latents)
    if how.limit is not None and size > how.limit:
        note = (
            f"{' and '.join(dict.fromkeys((coupling.first, coupling.second)))} are coupled, but "
            f"their joint block would have {size} elements ({size * size * 8 / 1e6:.0f} MB a "
            f"matrix; the limit is {how.limit} elements), so they stay apart"
        )
        how.notes.append(note)
        return
    for name in joined.names:
        groups[name] = joined


def shared_plates(group: Group, latents: Latents, names: Sequence[str] | None = None) -> list[str]:
    """The plates that stay batch dims: common to all sites, never coupled across.

    :param names: of some of the group's sites; all if None.
    """
    chosen = group.names if names is None else names
    first, *rest = (list(plate_names(latents[n]).values()) for n in chosen)
    return [p for p in first if p not in group.broken and all(p in r for r in rest)]


def _event_size(group: Group, latents: Latents) -> int:
    plates = set(shared_plates(group, latents))
    total = 0
    for name in group.names:
        latent = latents[name]
        batch = {d for d, p in plate_names(latent).items() if p in plates}
        total += prod(s for d, s in enumerate(latent.site.shape) if d not in batch)
    return total


def _merged_block(group: Group, latents: Latents) -> Block:
    plates = shared_plates(group, latents)
    placements: dict[str, Placement] = {}
    offset = 0
    for name in group.names:
        latent = latents[name]
        dims = {p: d for d, p in plate_names(latent).items()}
        batch = tuple(dims[p] for p in plates)
        placements[name] = Placement(batch, offset)
        offset += prod(s for d, s in enumerate(latent.site.shape) if d not in batch)
    first = latents[group.names[0]]
    shape = tuple(first.site.shape[d] for d in placements[first.name].batch_dims)
    sites = tuple(latents[n].site for n in group.names)
    if offset == 1 and len(sites) == 1:
        return Block(first.name, Normal(), sites, shape, None, placements)
    return Block("+".join(group.names), MultivariateNormal(), sites, shape, offset, placements)
