# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Fits that are to be merged: an engine, a guide or a saved state, block by block."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import errors
from ..guides.checkpoint import KEYS, differences, guide_state, saved_blocks
from ..guides.natural_guide import NaturalGuide
from ..guides.views import View
from ..lifting.blocks import Block
from ..state import Resumable
from .checks import holds_posterior
from .prepared import Naturals, Prepared, with_rows


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
    """A fit's natural parameters by the blocks of the guide that they are merged into.

    :raises GuideError: for other sites, families, shapes or blocks.
    """
    own = [b for b in at.naturals if any(s.name not in at.split.local for s in b.sites)]
    names = {s.name for b in own for s in b.sites}
    latents = {n: latent for n, latent in at.energy.latents.items() if n in names}
    saved = {n: s for n, s in fit.state["latents"].items() if n not in at.split.local - names}
    wrong = differences(saved, latents)
    if wrong:
        raise _other_model("; ".join(wrong))
    blocks = [b for b in fit.state["blocks"] if set(b["sites"]) & names]
    state = {**fit.state, "latents": saved, "blocks": blocks}
    theirs = {b.sites[0].name: (b, n) for b, n in saved_blocks(state, latents, {}).items()}
    result = {}
    for block in own:
        other, natural = theirs.get(block.sites[0].name, (None, ()))
        if other is not None and other.row_dims and not block.row_dims:
            other, natural = with_rows(other, natural)
        if other is None or _form(other) != _form(block):
            raise _other_model(
                f"the block {block.name!r} holds other sites, or holds them otherwise"
            )
        result[block] = natural
    return result


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
