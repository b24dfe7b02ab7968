# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Jointly linear-Gaussian latents that are coupled between neighbours along one axis alone.

A state space model is one: its joint precision is block-tridiagonal, and so is that of the best
Gaussian with a full covariance, as the messages have no product of two times that are no
neighbours. Time is a dim of a site (a random walk in one tensor, in a plate or an event), or the
sites themselves one after the other (a loop over ``pyro.markov``). What is found is tried on every
factor before it is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from ..families import ChainNormal
from ..lifting.blocks import Block, Placement
from ..lifting.chain_blocks import ChainBlock, Times
from .arrow import coupled
from .couplings import plate_names
from .joining import rows_move_alone
from .latents import Latents
from .merging import MAX_BLOCK_SIZE, Group, linear_groups, shared_plates
from .traced import Traced

#: Numbers of a dense precision up to which it is held: a chain takes log2(T) rounds of some thirty
#: small operations, 6 ms at 256 times, where a matrix of 256 rows is factorised and inverted in 3.
DENSE_NUMBERS = 256**2

#: The fewest times of a chain; of fewer a dense matrix is no larger.
SHORTEST = 4


@dataclass(frozen=True)
class Chain:
    """A block that is a chain.

    :param unseen: the factors that are sampled, whose products are not known.
    """

    block: ChainBlock
    unseen: tuple[str, ...]

    @property
    def notes(self) -> tuple[str, ...]:
        """What the explanation says of it."""
        named = self.block.title
        length, width = self.block.length, self.block.width
        notes = [
            f"{named}: a chain of {length} times with {width} numbers each, whose precision is "
            "block-tridiagonal"
        ]
        if self.unseen:
            notes.append(
                f"whether sampled factors ({', '.join(self.unseen)}) couple times of {named} that "
                "are no neighbours was not seen; q has no such couplings"
            )
        return tuple(notes)


def find_chains(traced: Traced, latents: Latents, held: Sequence[Block] = ()) -> list[Chain]:
    """The blocks of latents that are chains, where that is worth more than a dense matrix.

    :param held: blocks that were found before; their latents are left out.
    """
    found: list[Chain] = []
    for group in linear_groups(traced, latents, held):
        for names in _parts(group, latents):
            chain = _chain_of(group, names, traced, latents)
            if chain is not None:
                found.append(chain)
                break
    return found


def _parts(group: Group, latents: Latents) -> Iterator[list[str]]:
    """The sites to try together: all of a group, then the larger ones if a matrix is too large."""
    yield group.names
    sizes = {name: prod(latents[name].site.shape) for name in group.names}
    if len(group.names) == 1 or sum(sizes.values()) <= MAX_BLOCK_SIZE:
        return
    for size in sorted(set(sizes.values()), reverse=True):
        names = [n for n in group.names if sizes[n] == size]
        if 1 < len(names) < len(group.names):
            yield names
    for name in sorted(group.names, key=lambda n: -sizes[n]):
        if sizes[name] >= SHORTEST:
            yield [name]


def _chain_of(group: Group, names: list[str], traced: Traced, latents: Latents) -> Chain | None:
    """The first layout in time of some latents that every factor allows, or None."""
    for block in _layouts(group, names, latents):
        if not _is_worth_it(block) or not rows_move_alone([block], traced):
            continue
        layout = {name: latent.block() for name, latent in latents.items()}
        layout |= {s.name: block for s in block.sites}
        found = coupled(block, layout, traced)
        # What a sampled factor couples is not seen: a dense matrix has room for it.
        size = block.length * block.width
        if not found.across and (not found.unseen or size > MAX_BLOCK_SIZE):
            return Chain(block, found.unseen)
    return None


def is_short(block: Block) -> bool:
    """Whether one dense matrix of a block's event is as good as a chain."""
    return (block.event_size or 1) ** 2 <= DENSE_NUMBERS


def _is_worth_it(block: ChainBlock) -> bool:
    size = block.length * block.width
    return block.length >= SHORTEST and prod(block.batch_shape) * size**2 > DENSE_NUMBERS


def _layouts(group: Group, names: list[str], latents: Latents) -> Iterator[ChainBlock]:
    """The ways to lay some latents along time: along a dim, or one after the other."""
    plates = shared_plates(group, latents, names)
    loose = {n: _loose_dims(latents, n, plates) for n in names}
    largest = max(names, key=lambda n: prod(latents[n].site.shape))
    shape = latents[largest].site.shape
    for dim in loose[largest]:
        times = {n: _time_dim(latents, n, loose[n], shape[dim]) for n in names}
        times[largest] = dim
        yield from _laid(latents, plates, _along(times), shape[dim])
    count = _sites_a_time(group, names, latents)
    if count is not None:
        at = {name: Times(None, i // count) for i, name in enumerate(names)}
        yield from _laid(latents, plates, at, len(names) // count)


def _loose_dims(latents: Latents, name: str, plates: Sequence[str]) -> list[int]:
    """The dims of a latent that may be time, the longest first."""
    latent = latents[name]
    batch = {d for d, plate in plate_names(latent).items() if plate in plates}
    dims = [d for d, size in enumerate(latent.site.shape) if d not in batch and size > 1]
    return sorted(dims, key=lambda d: -latent.site.shape[d])


def _time_dim(latents: Latents, name: str, dims: list[int], length: int) -> int | None:
    return next((d for d in dims if latents[name].site.shape[d] == length), None)


def _along(dims: dict[str, int | None]) -> dict[str, Times]:
    """Sites along their dims; sites of one time are the states before them."""
    before = any(dim is None for dim in dims.values())
    return {n: Times(dim, int(before and dim is not None)) for n, dim in dims.items()}


def _laid(
    latents: Latents, plates: Sequence[str], times: dict[str, Times], length: int
) -> Iterator[ChainBlock]:
    """The block of some sites, if each time has as many numbers as the others."""
    length += any(t.start and t.dim is not None for t in times.values())
    filled = [0] * length
    placements: dict[str, Placement] = {}
    for name, own in times.items():
        latent = latents[name]
        dims = {p: d for d, p in plate_names(latent).items()}
        batch = tuple(dims[p] for p in plates)
        shape = latent.site.shape
        end = own.start + (1 if own.dim is None else shape[own.dim])
        offset = filled[own.start]
        if any(other != offset for other in filled[own.start : end]):
            return
        size = prod(s for d, s in enumerate(shape) if d != own.dim and d not in batch)
        filled[own.start : end] = [offset + size] * (end - own.start)
        placements[name] = Placement(batch, offset)
    if len(set(filled)) > 1:
        return
    first = latents[next(iter(times))]
    yield ChainBlock(
        "+".join(times),
        ChainNormal(),
        tuple(latents[n].site for n in times),
        tuple(first.site.shape[d] for d in placements[first.name].batch_dims),
        length * filled[0],
        placements,
        times=times,
        length=length,
        width=filled[0],
    )


def _sites_a_time(group: Group, names: list[str], latents: Latents) -> int | None:
    """How many successive sites are one time: so many that couplings reach the next time at most.

    None if the sites cannot be divided into times of one size.
    """
    place = {name: i for i, name in enumerate(names)}
    reach = [abs(place[a] - place[b]) for a, b in group.couplings if a in place and b in place]
    sizes = [prod(latents[n].site.shape) for n in names]
    for count in range(max(reach, default=1) or 1, len(names) // SHORTEST + 1):
        alike = len(names) % count == 0 and all(
            sizes[i : i + count] == sizes[:count] for i in range(0, len(names), count)
        )
        if alike:
            return count
    return None
