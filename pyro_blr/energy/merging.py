# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which latents share a Gaussian block: those that are jointly linear-Gaussian and coupled.

Two elements are coupled if some factor has a term with the product of both (given the other blocks,
random precisions among them), or a predictor with the sum of both. A merge must leave every exact
term at most quadratic in the merged block: ``y ~ Normal(a * b, 1)`` has the term ``a^2 b^2``, so a
and b stay apart. Plates along which only equal elements are coupled (``a[g] + b[g] * x``) stay
batch dims; a subsampled plate always does, as a step moves the rows of its subsample alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
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
class _Group:
    """Sites that are to share a block; the plates along which different elements are coupled."""

    names: list[str]
    broken: set[str] = field(default_factory=set)
    coupled: bool = False


@dataclass(frozen=True)
class Coupling:
    """A product of elements of two sites and the plates along which they may differ."""

    first: str
    second: str
    broken: frozenset[str]


def merge(traced: Traced, latents: Latents) -> tuple[list[Block], tuple[str, ...]]:
    """The blocks of ``blocks="auto"``, and a note for each merge that was too large."""
    terms, pairs = _structure(traced, latents)
    groups = {name: _Group([name]) for name in latents}
    subsampled = {latents[n].plates[d][0] for n, dims in traced.rows.items() for d in dims}
    notes: list[str] = []
    for coupling in pairs:
        across = coupling.broken & subsampled
        if across:
            notes.append(_across(coupling, min(across)))
        else:
            _join(coupling, groups, latents, terms, notes)
    blocks = []
    for group in dict.fromkeys(groups.values()):
        if group.coupled:
            blocks.append(_merged_block(group, latents))
        else:
            blocks.extend(latents[name].block() for name in group.names)
    order = {name: i for i, name in enumerate(latents)}
    ordered = sorted(blocks, key=lambda b: min(order[s.name] for s in b.sites))
    return ordered, tuple(dict.fromkeys(notes))


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
    for site in traced.sites:
        for node in site.lifted_factors:
            polynomial = node.poly
            if polynomial is not None and _splits(polynomial, latents):
                for term in polynomial.terms:
                    degrees.append(_degrees(term, latents))
                    pairs.update(dict.fromkeys(_term_couplings(term, latents)))
            else:
                predictor = find_predictor(node)
                if not isinstance(predictor, str):
                    for scalar in predictor.values:
                        assert scalar.poly is not None
                        pairs.update(dict.fromkeys(_predictor_couplings(scalar.poly, latents)))
    # Terms that are at most quadratic in all sites together stay so under every merge.
    return [d for d in degrees if sum(d.values()) > 2], list(pairs)


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
        first, second = elements
        yield from _coupling(first, second, latents)
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
    mine = {name: first.where[d] for d, name in _plate_names(a).items()}
    theirs = {name: second.where[d] for d, name in _plate_names(b).items()}
    broken = {p for p in mine if p not in theirs or not same_address(mine[p], theirs[p])}
    broken |= {p for p in theirs if p not in mine}
    if a is not b or broken:
        names = sorted((a.name, b.name), key=list(latents).index)
        yield Coupling(names[0], names[1], frozenset(broken))


def _plate_names(latent: Latent) -> dict[int, str]:
    """A name for each batch dim: its plate's, or one of its own."""
    return {
        d: latent.plates[d][0] if d in latent.plates else f"{latent.name}[{d}]"
        for d in latent.batch_dims
    }


def _join(
    coupling: Coupling,
    groups: dict[str, _Group],
    latents: Latents,
    terms: list[dict[str, int]],
    notes: list[str],
) -> None:
    left, right = groups[coupling.first], groups[coupling.second]
    if left is right and left.coupled and coupling.broken <= left.broken:
        return
    names = list(dict.fromkeys((*left.names, *right.names)))
    broken = left.broken | right.broken | coupling.broken
    if any(sum(term.get(n, 0) for n in names) > 2 for term in terms):
        return
    joined = _Group(sorted(names, key=list(latents).index), broken, coupled=True)
    size = _event_size(joined, latents)
    if size > MAX_BLOCK_SIZE:
        note = (
            f"{' and '.join(dict.fromkeys((coupling.first, coupling.second)))} are coupled, but "
            f"their joint block would have {size} elements ({size * size * 8 / 1e6:.0f} MB a "
            f"matrix; the limit is {MAX_BLOCK_SIZE} elements), so they stay apart"
        )
        notes.append(note)
        return
    for name in joined.names:
        groups[name] = joined


def _shared_plates(group: _Group, latents: Latents) -> list[str]:
    """The plates that stay batch dims: common to all sites, never coupled across."""
    first, *rest = (list(_plate_names(latents[n]).values()) for n in group.names)
    return [p for p in first if p not in group.broken and all(p in r for r in rest)]


def _event_size(group: _Group, latents: Latents) -> int:
    plates = set(_shared_plates(group, latents))
    total = 0
    for name in group.names:
        latent = latents[name]
        batch = {d for d, p in _plate_names(latent).items() if p in plates}
        total += prod(s for d, s in enumerate(latent.site.shape) if d not in batch)
    return total


def _merged_block(group: _Group, latents: Latents) -> Block:
    plates = _shared_plates(group, latents)
    placements: dict[str, Placement] = {}
    offset = 0
    for name in group.names:
        latent = latents[name]
        dims = {p: d for d, p in _plate_names(latent).items()}
        batch = tuple(dims[p] for p in plates)
        placements[name] = Placement(batch, offset)
        offset += prod(s for d, s in enumerate(latent.site.shape) if d not in batch)
    first = latents[group.names[0]]
    shape = tuple(first.site.shape[d] for d in placements[first.name].batch_dims)
    sites = tuple(latents[n].site for n in group.names)
    if offset == 1 and len(sites) == 1:
        return Block(first.name, Normal(), sites, shape, None, placements)
    return Block("+".join(group.names), MultivariateNormal(), sites, shape, offset, placements)
