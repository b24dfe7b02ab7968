# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Posteriors, and what was added to one, as states by block: engines, guides, what was saved."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from .. import errors
from ..energy.latents import Latents
from ..energy.previous import shared_part
from ..engine import detached
from ..families import Natural
from ..guide_parameters import GuideParameters
from ..guides.checkpoint import KEYS, differences, guide_state, saved_blocks
from ..guides.natural_guide import NaturalGuide
from ..guides.views import View
from ..lifting.blocks import Block
from ..module_parameters import share_with_store
from ..state import Resumable
from .checks import Call, holds_posterior, no_posterior
from .laws import Naturals, law_of, shared_sites, with_law
from .resizing import as_saved, with_rows


@dataclass(frozen=True)
class Fitted:
    """A posterior of some data, as tensors, numbers and strings.

    :param state: what the guide remembers.
    """

    state: Mapping[str, Any]

    @property
    def sites_with_own_rows(self) -> set[str]:
        """The sites in whose blocks no rows share a covariance."""
        return {s for b in self.state["blocks"] if not b["row_dims"] for s in b["sites"]}


def listed(others: Any) -> list[Any]:
    """What is to be merged: one thing, or several."""
    is_one = isinstance(others, Mapping | torch.nn.Module | str) or not isinstance(others, Iterable)
    return [others] if is_one else list(others)


def fits_of(blr: Any, given: list[Any], call: Call) -> list[Fitted]:
    """The posteriors that are to be merged.

    :param blr: the engine into which they are merged.
    :param call: the model's arguments.
    :raises ArgumentError: for what is no fit, or the same one twice.
    :raises GuideError: for a fit that has seen no data.
    """
    if not given:
        raise errors.ArgumentError("there is no fit to merge. Mend: blr.merge([other, ...]).")
    guides = [blr.guide, *(o.guide if isinstance(o, Resumable) else o for o in given)]
    if len({id(g) for g in guides}) < len(guides):
        raise errors.ArgumentError(
            "the same fit is to be merged twice, which would count its data twice. Mend: merge "
            "each fit once, and not with itself."
        )
    _check_apart(guides)
    return [Fitted(_state(blr, other, call)) for other in given]


def _check_apart(guides: Iterable[Any]) -> None:
    """Refuse guides of Pyro that are one fit: its store has one tensor of a name.

    :raises ArgumentError: saying how each fit is kept.
    """
    seen: set[int] = set()
    for guide in guides:
        if isinstance(guide, torch.nn.Module) and not isinstance(guide, NaturalGuide):
            share_with_store(guide)
            own = {id(p) for p in guide.parameters()}
            if own & seen:
                raise errors.ArgumentError(
                    f"two guides {type(guide).__name__} have the same parameters, since Pyro's "
                    "store has one of each name: the fit that was made last is in both. Mend: use "
                    "AutoNatural(model), whose fits stay apart; or keep blr.state_dict() after "
                    "each fit, pyro.clear_param_store() before the next, and merge these states."
                )
            seen |= own


def _state(blr: Any, other: Any, call: Call) -> Mapping[str, Any]:
    if isinstance(other, Resumable):
        view = getattr(other, "view", None)
        if isinstance(view, View) and view.is_set_up:
            state: Any = guide_state(view.latents, view.naturals())
            state["holds_posterior"] = holds_posterior(other)
        else:
            state = other.guide
    elif isinstance(other, Mapping):
        state = other.get("guide", other)
        if isinstance(state, Mapping) and "values" in state and "engine" in other:
            state = _state_of_parameters(blr, other, call)
    else:
        state = other
    if isinstance(state, NaturalGuide):
        if not (state.is_set_up or state.holds_posterior):
            raise no_posterior("merge")
        state = state.state()
    if not isinstance(state, Mapping) or any(k not in state for k in KEYS):
        name = getattr(state, "__name__", type(state).__name__)
        raise errors.ArgumentError(
            f"{name} is no fit with natural parameters. Mend: merge engines (BLR) or guides "
            "(AutoNatural) that were fitted, or what their state_dict() returned."
        )
    if not state.get("holds_posterior", True):
        raise errors.GuideError(
            "a guide to merge holds no posterior: no step has moved it. Mend: fit it first, or "
            "leave it out."
        )
    return state


def _state_of_parameters(blr: Any, saved: Mapping[str, Any], call: Call) -> Any:
    """The natural parameters of a guide that was saved as parameters of its own.

    They are what the engine's guide has with these parameters, which it takes up for a moment.
    """
    part = blr._guide_part
    if not isinstance(part, GuideParameters):
        return saved["guide"]
    blr.view.set_up(*call, blr._builder)
    own = part.state()
    try:
        part.load_state(saved["guide"])
        state = guide_state(blr.view.latents, detached(blr.view.naturals()))
    except errors.CheckpointError as error:
        raise _other_model(str(error)) from error
    finally:
        part.load_state(own)
    state["holds_posterior"] = bool(saved["engine"].get("num_steps", 1))
    return state


def change_of(
    latents: Latents, local: frozenset[str], before: Naturals, after: Naturals
) -> dict[str, Any]:
    """What was added to the natural parameters of latents that all data share, to be kept.

    :param local: the latents that belong to the data.
    :param before: the shared parts, by block.
    :param after: the natural parameters of all blocks.
    """
    blocks = {}
    for block, natural in after.items():
        part = shared_part(block, natural, local)
        if part is not None:
            added = tuple(a - b for a, b in zip(part[0], before[block], strict=True))
            if local & {s.name for s in block.sites}:
                block, added = law_of(block, added, local).alone(latents)
            blocks[block] = added
    names = {s.name for b in blocks for s in b.sites}
    return guide_state({n: latent for n, latent in latents.items() if n in names}, blocks)


def aligned(fit: Fitted, own: Naturals, latents: Latents, local: frozenset[str]) -> Naturals:
    """What a state says of the latents that all data share, by the blocks of a guide.

    :param own: the natural parameters of the guide.
    :param local: the latents that belong to the data.
    :raises GuideError: for other sites, families, shapes or blocks.
    """
    every = _blocks_of(fit, latents, local)
    theirs = {shared_sites(b, local): (b, n) for b, n in every.items()}
    result = {}
    for block, natural in own.items():
        sites = shared_sites(block, local)
        if sites:
            if sites not in theirs:
                raise _other_model(f"the block {block.name!r} holds other sites")
            result[block] = _in_block(block, natural, *theirs[sites], local)
    return result


def give_room(view: Any, fits: Iterable[Fitted]) -> bool:
    """Have rows a covariance each where those of some state have; whether that changed the guide.

    :param view: the guide, as the engine sees it.
    """
    apart = {s for fit in fits for s in fit.sites_with_own_rows}
    held = detached(view.naturals())
    blocks = [b for b in held if b.row_dims and any(s.name in apart for s in b.sites)]
    if blocks:
        view.hold(dict(with_rows(b, n) if b in blocks else (b, n) for b, n in held.items()))
    return bool(blocks)


def _in_block(
    block: Block, own: Natural, other: Block, natural: Natural, local: frozenset[str]
) -> Natural:
    """What another fit's block says of shared latents, in the coordinates of a block."""
    if other.row_dims and not block.row_dims:
        other, natural = with_rows(other, natural)
    if _form(other) == _form(block) and not local & {s.name for s in block.sites}:
        return natural
    part = shared_part(other, natural, local)
    assert part is not None
    zeros = tuple(torch.zeros_like(t) for t in own)
    found = None
    if local & {s.name for b in (block, other) for s in b.sites}:
        found = with_law(block, zeros, law_of(other, part[0], local))
    if found is None:
        raise _other_model(f"the block {block.name!r} holds its sites in another form")
    return found


def _blocks_of(fit: Fitted, latents: Latents, local: frozenset[str]) -> Naturals:
    """The blocks of a state; latents of its data's own, if it has them, have its sizes."""
    own = as_saved(fit.state, latents, local)
    wrong = differences(fit.state["latents"], own)
    if wrong:
        raise _other_model("; ".join(wrong))
    return saved_blocks(fit.state, own, {})


def _form(block: Block) -> tuple[Any, ...]:
    """What makes natural parameters of two blocks those of the same numbers."""
    names = [s.name for s in block.sites]
    places = [block.placements[n] for n in names]
    own = (type(block), block.family, block.batch_shape, block.event_size, block.row_dims)
    extra = [getattr(block, n, None) for n in ("groups", "global_size", "length", "width", "times")]
    return (*own, names, places, extra)


def _other_model(why: str) -> errors.GuideError:
    return errors.GuideError(
        f"this fit is of another model or guide: {why}. Mend: what is put together must be of the "
        "same model, with the same guide and options (families, blocks)."
    )
