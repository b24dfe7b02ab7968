# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Fits that are to be merged: an engine, a guide or a saved state, block by block."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from .. import errors
from ..energy.previous import shared_part
from ..guides.checkpoint import KEYS, differences, guide_state, saved_blocks
from ..guides.natural_guide import NaturalGuide
from ..guides.views import View
from ..lifting.blocks import Block
from ..state import Resumable
from .checks import holds_posterior
from .prepared import Naturals, Prepared
from .resizing import with_part, with_rows


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


def fits_of(blr: Any, others: Any) -> list[Fitted]:
    """What is to be merged.

    :param blr: the engine into which it is merged.
    :raises ArgumentError: for what is no fit, or the same one twice.
    :raises GuideError: for a fit that has seen no data.
    """
    given = list(others) if isinstance(others, list | tuple) else [others]
    if not given:
        raise errors.ArgumentError("there is no fit to merge. Mend: blr.merge([other, ...]).")
    guides = [blr.guide, *(o.guide if isinstance(o, Resumable) else o for o in given)]
    if len({id(g) for g in guides}) < len(guides):
        raise errors.ArgumentError(
            "the same fit is to be merged twice, which would count its data twice. Mend: merge "
            "each fit once, and not with itself."
        )
    return [Fitted(_state(other)) for other in given]


def _state(other: Any) -> Mapping[str, Any]:
    if isinstance(other, Resumable):
        view = getattr(other, "view", None)
        if isinstance(view, View) and view.is_set_up:
            state: Any = guide_state(view.latents, view.naturals())
            state["holds_posterior"] = holds_posterior(other)
        else:
            state = other.guide
    elif isinstance(other, Mapping):
        state = other.get("guide", other)
    else:
        state = other
    if isinstance(state, NaturalGuide):
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


def aligned(fit: Fitted, at: Prepared) -> Naturals:
    """What a fit says of the latents that all data share, by the blocks of another guide.

    :raises GuideError: for other sites, families, shapes or blocks.
    """
    local = at.split.local
    theirs = {_shared(b, local): (b, n) for b, n in _blocks_of(fit, at).items()}
    result = {}
    for block, own in at.naturals.items():
        sites = _shared(block, local)
        if not sites:
            continue
        other, natural = theirs.get(sites, (None, ()))
        if other is not None and other.row_dims and not block.row_dims:
            other, natural = with_rows(other, natural)
        if other is not None and local & {s.name for b in (block, other) for s in b.sites}:
            part = shared_part(other, natural, local)
            assert part is not None
            zeros = tuple(torch.zeros_like(t) for t in own)
            result[block] = with_part(block, zeros, other, part[0], local)
            continue
        if other is None or _form(other) != _form(block):
            raise _other_model(f"the block {block.name!r} holds other sites, or otherwise")
        result[block] = natural
    return result


def _shared(block: Block, local: frozenset[str]) -> tuple[str, ...]:
    return tuple(s.name for s in block.sites if s.name not in local)


def _blocks_of(fit: Fitted, at: Prepared) -> Naturals:
    """The blocks of a fit; latents of its data's own have its sizes."""
    latents, saved = dict(at.energy.latents), fit.state["latents"]
    for name in at.split.local & set(latents) & set(saved):
        site = replace(latents[name].site, shape=tuple(saved[name]["shape"]))
        latents[name] = replace(latents[name], site=site)
    wrong = differences(saved, latents)
    if wrong:
        raise _other_model("; ".join(wrong))
    return saved_blocks(fit.state, latents, {})


def _form(block: Block) -> tuple[Any, ...]:
    """What makes natural parameters of two blocks those of the same numbers."""
    names = [s.name for s in block.sites]
    places = [block.placements[n] for n in names]
    own = (type(block), block.family, block.batch_shape, block.event_size, block.row_dims)
    extra = [getattr(block, n, None) for n in ("groups", "global_size", "length", "width", "times")]
    return (*own, names, places, extra)


def _other_model(why: str) -> errors.GuideError:
    return errors.GuideError(
        f"a fit to merge is of another model or guide: {why}. Mend: merge fits of the same model, "
        "whose guides and options (families, blocks) are the same."
    )
