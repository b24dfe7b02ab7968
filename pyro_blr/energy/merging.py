# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which latents share a Gaussian block: those that are jointly linear-Gaussian and coupled.

A merge must leave every exact
term at most quadratic in the merged block: ``y ~ Normal(a * b, 1)`` has the term ``a^2 b^2``, so a
and b stay apart. Plates along which only equal elements are coupled (``a[g] + b[g] * x``) stay
batch dims; a subsampled plate always does, as a step moves the rows of its subsample alone, and so
does one whose elements are spread over parts of the data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

from ..families import MultivariateNormal, Normal
from ..lifting.blocks import Block, Placement
from ..lifting.chain_blocks import ChainBlock
from .couplings import Coupling, is_mergeable, plate_names, structure
from .latents import Latents
from .traced import Traced

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


def merge(
    traced: Traced, latents: Latents, found: Sequence[Block] = ()
) -> tuple[list[Block], tuple[str, ...]]:
    """The blocks of ``blocks="auto"``, and a note for each merge that was too large.

    :param found: chains and independent elements, found before; no latent joins them.
    """
    held = {s.name: block for block in found for s in block.sites}
    groups, notes = _groups(traced, latents, MAX_BLOCK_SIZE, held)
    blocks = list(found)
    for group in groups:
        if group.coupled:
            blocks.append(_merged_block(group, latents))
        else:
            blocks.extend(latents[name].block() for name in group.names)
    order = {name: i for i, name in enumerate(latents)}
    ordered = sorted(blocks, key=lambda b: min(order[s.name] for s in b.sites))
    return ordered, tuple(dict.fromkeys(notes))


def linear_groups(traced: Traced, latents: Latents, held: Sequence[Block] = ()) -> list[Group]:
    """The latents that are jointly linear-Gaussian and coupled, however many elements they have.

    A Gaussian that is coupled with no other is a group of its own.

    :param held: blocks that were found before, whose latents are left out.
    """
    groups, _ = _groups(traced, latents, None, {s.name: b for b in held for s in b.sites})
    return [g for g in groups if all(is_mergeable(latents[n]) for n in g.names)]


def _groups(
    traced: Traced, latents: Latents, limit: int | None, held: Mapping[str, Block]
) -> tuple[list[Group], list[str]]:
    """The latents by the blocks that they are to share, and a note for each that is not made.

    :param limit: the largest block.
    :param held: the latents that have their block already.
    """
    terms, pairs = structure(traced, latents)
    groups = {name: Group([name]) for name in latents if name not in held}
    apart = {
        latents[n].plates[d][0]: how
        for how, by_name in (("subsampled", traced.rows), ("spread over parts", traced.sharded))
        for n, dims in by_name.items()
        for d in dims
    }
    order = {name: i for i, name in enumerate(latents)}
    notes: list[str] = []
    for coupling in pairs:
        across = coupling.broken & apart.keys()
        ends = {coupling.first, coupling.second}
        if across:
            notes.append(_across(coupling, min(across), apart[min(across)]))
        elif ends & held.keys():
            if not ends & traced.noise.keys() and len({held.get(name) for name in ends}) > 1:
                notes.append(_beside(coupling, [held[n] for n in ends if n in held]))
        else:
            _join(coupling, groups, _Joining(latents, order, terms, limit, notes))
    return list(dict.fromkeys(groups.values())), notes


def _beside(coupling: Coupling, found: Sequence[Block]) -> str:
    """The note on a latent that is coupled with a block found before, and is no part of it."""
    is_chain = any(isinstance(b, ChainBlock) for b in found)
    kind = "a chain along time" if is_chain else "a block of independent elements"
    return (
        f"{coupling.first} and {coupling.second} are coupled, and one of them is {kind}, of which "
        "the other is no part: they stay apart"
    )


def _across(coupling: Coupling, plate: str, how: str) -> str:
    """The note on elements of a plate of which a step sees some at a time, or a part of them."""
    names = " and ".join(dict.fromkeys((coupling.first, coupling.second)))
    return f"{names} are coupled across the plate {plate!r}, which is {how}: they stay apart"


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
