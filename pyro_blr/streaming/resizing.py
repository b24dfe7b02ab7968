# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Batches of other sizes: latents of the data's own begin anew, the law of all others is kept."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .. import errors
from ..energy.energy import Energy
from ..energy.latents import Latents
from ..energy.previous import shared_part
from ..engine import detached
from ..families import MultivariateNormal, Natural
from ..guides.checkpoint import saved_blocks
from ..guides.natural_guide import NaturalGuide
from ..lifting.blocks import Block
from ..random_state import same_random_state
from .checks import Call, holds_posterior, split_of
from .laws import Naturals, law_of, shared_sites, with_law


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


def take_up(blr: Any, call: Call, plate: str | None) -> None:
    """Set a guide up; a saved state is taken up, latents of the data's own in the sizes of a call.

    :raises CheckpointError: for the state of another model.
    """
    try:
        blr._resume(*call)
        if isinstance(blr.guide, NaturalGuide) and blr.guide.holds_posterior:
            blr._is_laid_out = True  # its blocks, which may be another engine's, hold a posterior
        blr.view.set_up(*call, blr._builder)
    except errors.CheckpointError as error:
        if not isinstance(blr.guide, NaturalGuide) or not blr.guide.holds_posterior:
            raise
        _take_up_resized(blr, call, plate, error)
    except errors.PlateSizeError as error:  # of a copy, whose guide is a copy too
        if not isinstance(blr.guide, NaturalGuide) or not holds_posterior(blr):
            raise
        _resize(blr, call, plate, error)
        blr._is_resuming = False


def _take_up_resized(
    blr: Any, call: Call, plate: str | None, error: errors.CheckpointError
) -> None:
    guide = blr.guide
    with guide.apart_from_saved() as saved, same_random_state():
        guide.set_up(*call, blr._builder)
        blr._is_laid_out = False
        energy = blr._energy(*call)
        local = split_of(energy.traced, plate).local
        before = saved_blocks(saved, as_saved(saved, guide.latents, local), {})
        guide.hold(_kept(detached(guide.naturals()), before, guide.latents, local, error))
    blr._is_laid_out, blr._is_resuming = True, False


def as_saved(state: Mapping[str, Any], latents: Latents, local: frozenset[str]) -> dict[str, Any]:
    """The latents of a saved state; those of its data's own, if it has them, have its sizes."""
    saved, own = state["latents"], {}
    for name, latent in latents.items():
        if name in local and name in saved:
            site = replace(latent.site, shape=tuple(saved[name]["shape"]))
            own[name] = replace(latent, site=site)
        elif name not in local:
            own[name] = latent
    return own


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
    new: Naturals,
    before: Naturals,
    latents: Latents,
    local: frozenset[str],
    error: errors.PlateSizeError | errors.CheckpointError,
) -> Naturals:
    """Where latents of the data's own start, and what was known of all others.

    :param new: the blocks that a new guide would have.
    :raises PlateSizeError: for latents of other sizes that all data share.
    """
    left = dict(new)
    result = {}
    for block, natural in before.items():
        shared = shared_sites(block, local)
        if any(s.shape != latents[s.name].site.shape for s in block.sites if s.name in shared):
            raise error
        if shared:
            meeting = {b: left.pop(b) for b in new if shared_sites(b, local) & shared and b in left}
            own, law = _moved(block, natural, meeting, latents, local) or (None, ())
            if own is None:
                raise error
            result[own] = law
    return {**result, **left}


def _moved(
    block: Block, natural: Natural, meeting: Naturals, latents: Latents, local: frozenset[str]
) -> tuple[Block, Natural] | None:
    """The law of a block's shared latents, in a block of the sizes that there are now.

    :param meeting: the blocks that a new guide would have for these latents.
    """
    shared = shared_sites(block, local)
    names = {s.name for b in meeting for s in b.sites}
    if names == shared == {s.name for s in block.sites}:
        return replace(block, sites=tuple(latents[s.name].site for s in block.sites)), natural
    part = shared_part(block, natural, local)
    assert part is not None
    law = law_of(block, part[0], local)
    if len(meeting) == 1:
        ((own, start),) = meeting.items()
        known = with_law(own, start, law) if shared_sites(own, local) == shared else None
        if known is not None:
            return own, known
    return law.alone(latents) if names == shared else None
