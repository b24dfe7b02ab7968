# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A guide's latents, blocks and natural parameters as tensors, numbers and strings, and back."""

from collections.abc import Mapping, Sequence
from typing import Any

from .. import errors
from ..energy.latents import Latent, Latents
from ..families import ExponentialFamily, Natural, registered_families
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block, Placement
from ..lifting.chain_blocks import ChainBlock, Times

#: What belongs into the saved state of a guide.
KEYS = ("latents", "blocks")


def guide_state(latents: Latents, naturals: Mapping[Block, Natural]) -> dict[str, Any]:
    """What a guide knows, to be saved."""
    return {
        "latents": {name: _latent_state(latent) for name, latent in latents.items()},
        "blocks": [_block_state(block, natural) for block, natural in naturals.items()],
    }


def _latent_state(latent: Latent) -> dict[str, Any]:
    return {
        "family": latent.family.name,
        "shape": list(latent.site.shape),
        "space": "unconstrained" if latent.transform is not None else "own",
    }


def _block_state(block: Block, natural: Natural) -> dict[str, Any]:
    return {
        "name": block.name,
        "family": block.family.name,
        "batch_shape": list(block.batch_shape),
        "event_size": block.event_size,
        "row_dims": block.row_dims,
        "sites": [s.name for s in block.sites],
        "batch_dims": [list(block.placements[s.name].batch_dims) for s in block.sites],
        "offsets": [block.placements[s.name].offset for s in block.sites],
        "structure": _structure(block),
        "natural": [n.detach().clone() for n in natural],
    }


def _structure(block: Block) -> dict[str, Any]:
    """What a block whose precision has a structure knows beside the others."""
    if isinstance(block, ArrowBlock):
        return {name: getattr(block, name) for name in ARROW}
    if isinstance(block, ChainBlock):
        times = (block.times[s.name] for s in block.sites)
        each = [[own.dim, own.start] for own in times]
        return {"times": each, "length": block.length, "width": block.width}
    return {}


#: What is saved of an arrow-head.
ARROW = ("plate", "groups", "global_size", "local_size")


def require(state: Any, keys: Sequence[str], part: str) -> None:
    """Refuse a state that lacks keys.

    :param part: what the state is of, for the error.
    :raises CheckpointError: naming the missing keys.
    """
    missing = [k for k in keys if not isinstance(state, Mapping) or k not in state]
    if missing:
        raise errors.CheckpointError(
            f"the saved state of {part} lacks {missing}. Mend: load what blr.state_dict() "
            "returned, whole; the state of a guide, a param store or an optimiser is not enough."
        )


def refuse_kind(state: Any, key: str, kind: str) -> None:
    """Refuse the state of another kind of guide: natural parameters, or parameters of its own.

    :param key: what only the other kind's state has.
    :param kind: the class of the guide that is to take the state.
    :raises CheckpointError: naming the guide that was saved.
    """
    if isinstance(state, Mapping) and key in state:
        other = "a guide with parameters of its own" if key == "values" else "a natural guide"
        raise errors.CheckpointError(
            f"the saved state is of another guide: {state.get('kind', other)} was saved, and this "
            f"is {kind}. Mend: make the guide that was saved, or start anew without the state."
        )


def refuse_class(state: Mapping[str, Any], own: type) -> None:
    """Refuse the state of a guide of another class, which has blocks that this one never makes.

    A subclass takes what its own base has saved; older states do not say of which class they are.

    :raises CheckpointError: naming the guide that was saved.
    """
    kind = state.get("kind")
    if kind is not None and kind not in {each.__name__ for each in own.__mro__}:
        raise errors.CheckpointError(
            f"the saved state is of another guide: {kind} was saved, and this is {own.__name__}, "
            f"which has other laws for the latents. Mend: {kind}(model) takes it up; or start anew "
            "without it."
        )


def saved_blocks(
    state: Mapping[str, Any], latents: Latents, held: Mapping[Block, Natural]
) -> dict[Block, Natural]:
    """The blocks of a saved guide and their natural parameters.

    :param latents: those of the guide that takes them.
    :param held: the blocks that this guide has now; those that were saved may be others.
    :raises CheckpointError: if the latents, or the shapes of a block, are not those that were
        saved.
    """
    require(state, KEYS, "the guide")
    differing = differences(state["latents"], latents)
    if differing:
        raise errors.CheckpointError(
            f"the saved state is of another model: {'; '.join(differing)}. Mend: make the model "
            "and the guide (its families and sites, the sizes of its plates) as they were when the "
            "state was saved, or start anew without it."
        )
    result = {}
    for saved in state["blocks"]:
        own = [latents[n].family for n in saved["sites"]]
        known = [*own, *(b.family for b in held), *registered_families()]
        family = next((f for f in known if f.name == saved["family"]), None)
        if family is None:
            raise _unknown_family(saved["family"], state)
        block = _saved_block(saved, latents, family)
        _check_shapes(block, saved["natural"], held)
        device = latents[block.sites[0].name].device
        result[block] = tuple(n.detach().to(device).clone() for n in saved["natural"])
    return result


def differences(saved: Mapping[str, Any], latents: Latents) -> list[str]:
    """How saved latents differ from those of a guide, in words."""
    found = [
        f"site {name!r} was saved, and is not in the model" for name in set(saved) - set(latents)
    ]
    found += [f"site {name!r} was not saved" for name in set(latents) - set(saved)]
    for name in set(saved) & set(latents):
        now = _latent_state(latents[name])
        found += [
            f"site {name!r} was saved with the {what} {saved[name].get(what)}, and has {now[what]}"
            for what in now
            if saved[name].get(what) != now[what]
        ]
    return sorted(found)


def _check_shapes(block: Block, natural: Natural, held: Mapping[Block, Natural]) -> None:
    """Refuse natural parameters of other shapes than the guide gives the same block (a rank)."""
    for other, now in held.items():
        shapes = [[tuple(n.shape) for n in each] for each in (natural, now)]
        if other.form == block.form and shapes[0] != shapes[1]:
            raise errors.CheckpointError(
                f"the saved state is of another guide: the block {block.name!r} was saved with the "
                f"shapes {shapes[0]}, and has {shapes[1]}. Mend: give the guide the options "
                "(rank=, of a low-rank one) that it had when the state was saved."
            )


def _saved_block(saved: Mapping[str, Any], latents: Latents, family: ExponentialFamily) -> Block:
    placements = {
        name: Placement(tuple(dims), offset)
        for name, dims, offset in zip(
            saved["sites"], saved["batch_dims"], saved["offsets"], strict=True
        )
    }
    structure = dict(saved.get("structure", {}))  # states of older versions have none
    kind: type[Block] = ArrowBlock if "plate" in structure else Block
    if "times" in structure:
        each = zip(saved["sites"], structure["times"], strict=True)
        kind, structure["times"] = ChainBlock, {name: Times(*own) for name, own in each}
    return kind(
        saved["name"],
        family,
        tuple(latents[n].site for n in saved["sites"]),
        tuple(saved["batch_shape"]),
        saved["event_size"],
        placements,
        saved["row_dims"],
        **structure,
    )


def _unknown_family(name: str, state: Mapping[str, Any]) -> errors.CheckpointError:
    """The error for a block of a family that neither is registered nor the guide's own."""
    kind = f"{state['kind']}(model)" if "kind" in state else "the guide that was saved"
    return errors.CheckpointError(
        f"the saved state has a block of the family {name!r}, which this guide does not hold, and "
        f"which is not registered. Mend: make {kind} with the options that it had; or import the "
        "module that registers the family before loading."
    )
