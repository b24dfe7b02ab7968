# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Batches of other sizes: latents of the data's own begin anew, the law of all others is kept."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.energy import Energy
from ..energy.latents import Latents
from ..energy.previous import shared_part
from ..engine import detached
from ..families import MultivariateNormal, Natural
from ..guides.natural_guide import NaturalGuide
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block
from ..lifting.chain_blocks import ChainBlock
from .checks import Call, holds_posterior, split_of


def energy_of(blr: Any, call: Call, plate: str | None) -> Energy:
    """The energy of a call; latents of the data's own have the sizes of its plates.

    :raises PlateSizeError: for another size of latents that all data share.
    """
    try:
        return _energy(blr, call)
    except errors.PlateSizeError as error:
        if not isinstance(blr.guide, NaturalGuide) or not holds_posterior(blr):
            raise
        _resize(blr, call, plate, error)
        return _energy(blr, call)


def _resize(blr: Any, call: Call, plate: str | None, error: errors.PlateSizeError) -> None:
    """Set a guide up for a call of other sizes."""
    guide, before = blr.guide, detached(blr.guide.naturals())
    guide.latents = {}
    guide.set_up(*call, blr._builder)
    blr._is_laid_out = False
    try:
        energy = blr._energy(*call)
    finally:
        blr._is_laid_out = True
    local = split_of(energy.traced, plate).local
    guide.hold(_kept(detached(guide.naturals()), before, guide.latents, local, error))


def _energy(blr: Any, call: Call) -> Energy:
    _give_rows_room(blr, call)
    return blr._energy(*call)  # type: ignore[no-any-return]


def _give_rows_room(blr: Any, call: Call) -> None:
    """Rows that share a covariance get one each where the batch says different things of them."""
    view = blr.view
    if not blr._is_laid_out or not any(b.row_dims for b in view.blocks):
        return
    traced = blr._builder.trace(*call, view.latents)
    energy = blr._builder.build(traced, view.latents, view.layout)
    apart = [b for b in view.blocks if b.row_dims and not energy.is_conjugate_in(b)]
    if apart:
        view.hold(
            dict(with_rows(b, n) if b in apart else (b, n) for b, n in view.naturals().items())
        )


def with_rows(block: Block, natural: Natural) -> tuple[Block, Natural]:
    """The block with a covariance for each row, and its natural parameters; q is the same."""
    if not block.row_dims:
        return block, natural
    linear, square = natural
    size = linear.shape[-1]
    matrix = square.reshape(*block.own_shape, *(1,) * block.row_dims, size, size)
    own = replace(block, family=MultivariateNormal(), row_dims=0)
    shape = block.batch_shape
    return own, (linear.reshape(*shape, size), matrix.expand(*shape, size, size).clone())


def _kept(
    new: dict[Block, Natural],
    before: dict[Block, Natural],
    latents: Latents,
    local: frozenset[str],
    error: errors.PlateSizeError,
) -> dict[Block, Natural]:
    """Where latents of the data's own start, and what was known of all others."""
    old = {key: (b, n) for b, n in before.items() if (key := _shared_sites(b, local))}
    result = {}
    for block, natural in new.items():
        key = _shared_sites(block, local)
        if not key:
            result[block] = natural
            continue
        if key not in old:
            raise error
        block, natural = _with_law(block, natural, *old[key], latents, local, error)
        result[block] = natural
    return result


def _shared_sites(block: Block, local: frozenset[str]) -> frozenset[str]:
    return frozenset(s.name for s in block.sites) - local


def _with_law(
    block: Block,
    natural: Natural,
    old: Block,
    known: Natural,
    latents: Latents,
    local: frozenset[str],
    error: errors.PlateSizeError,
) -> tuple[Block, Natural]:
    """A block with the law that shared latents had; its local ones are independent of these."""
    if any(s.shape != latents[s.name].site.shape for s in old.sites if s.name not in local):
        raise error
    if all(s.name not in local for s in old.sites) and len(old.sites) == len(block.sites):
        return replace(old, sites=tuple(latents[s.name].site for s in old.sites)), known
    part = shared_part(old, known, local)
    assert part is not None
    return block, with_part(block, natural, old, part[0], local)


def with_part(
    block: Block, natural: Natural, old: Block, part: Natural, local: frozenset[str]
) -> Natural:
    """A block's natural parameters with the law that shared latents have in another block.

    :param natural: the block's own, of which what is said of local latents alone is kept.
    :param part: in the coordinates of the other one, as ``shared_part`` returns it.
    :raises GuideError: for a block that is no Gaussian vector.
    """
    for each in (block, old):
        if not each.gaussian or each.batch_shape or isinstance(each, ChainBlock):
            raise errors.GuideError(
                f"the block {each.name!r} holds latents of the data together with others, and is "
                f"no Gaussian vector but {each.family.name}. Mend: batches of one size; or "
                'BLR(..., blocks="site").'
            )
    names = [s.name for s in block.sites if s.name not in local]
    here, there = (torch.cat([_places(b, n) for n in names]) for b in (block, old))
    first, second = _matrices(old)
    parts = [t.clone() for t in natural]
    linear, square = (parts[i] for i in _matrices(block))
    linear[here] = part[first][there]
    square[here] = 0.0
    square[:, here] = 0.0
    square[here[:, None], here] = part[second][there[:, None], there]
    if isinstance(block, ArrowBlock):
        parts[3].zero_()  # what ties the groups to the global numbers
    return tuple(parts)


def _places(block: Block, name: str) -> Tensor:
    """Where the numbers of a site are in the vector, or among the global numbers."""
    (site,) = (s for s in block.sites if s.name == name)
    place = block.event_slice(site)
    return torch.arange(place.start, place.stop)


def _matrices(block: Block) -> tuple[int, int]:
    """Which natural parameters are those of the vector, or of the global numbers."""
    return (0, 2) if isinstance(block, ArrowBlock) else (0, 1)
