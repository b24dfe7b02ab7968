# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What is no sum over parts, and what parts must have in common, in words."""

import hashlib
from typing import Any

from torch import Tensor

from . import errors
from .energy.energy import Energy
from .energy.parts import Split
from .guides.views import charts_of
from .lifting.blocks import Block
from .objective import EnergyObjective
from .state import OPTIONS


def check_served(blr: Any, energy: Energy) -> None:
    """Refuse what is no sum over parts.

    :raises SubsampleError: for a minibatch.
    :raises GuideError: for a guide whose coordinates are not natural ones.
    """
    if energy.is_subsampled:
        raise errors.SubsampleError(
            "a plate holds a part of its rows, and the data are in parts already: the messages of "
            "all parts are summed, and none of them is scaled up. Mend: pass all rows of the part, "
            "pyro.plate(name, len(y)), without subsample."
        )
    if charts_of(blr.view):
        raise errors.GuideError(
            f"the guide {type(blr.guide).__name__} has parameters that are no natural ones, whose "
            "steps are no sums of messages. Mend: use AutoNatural(model)."
        )


def local_blocks(energy: Energy, found: Split) -> tuple[Block, ...]:
    """The blocks of latents that are a part's own.

    :raises GuideError: where they are not seen by the part alone, or factors are at draws.
    """
    names = found.local
    local = tuple(b for b in energy.blocks if any(s.name in names for s in b.sites))
    plates = sorted(found.plates)
    for block in local:
        if not all(s.name in names for s in block.sites):
            raise errors.GuideError(
                f"block {block.name!r} couples latents of the plates {plates}, whose elements are "
                "spread over the parts, with latents that all parts share. Mend: "
                "AutoNatural(model), which keeps them apart; or all data in one part."
            )
    for factor in energy.factors:
        met = sorted(b.name for b in factor.blocks & set(local))
        if met and factor.name in found.shared:
            raise errors.GuideError(
                f"factor {factor.name!r} is outside of the plates {plates}, whose elements are "
                f"spread over the parts, and depends on their latents {met}: no part sees all of "
                "them. Mend: put it into the plate, or all data in one part."
            )
    if local and energy.has_sampled:
        sampled = sorted(f.name for f in energy.factors if f.tier == "sampled")
        raise errors.GuideError(
            f"the factors {sampled} are at draws of q, and the optimum of the part's own latents "
            f"{[b.name for b in local]} is then known up to noise. Mend: the spelling that keeps "
            "factors deterministic, see explain of a BLR without process_group."
        )
    return local


def read_in_turn(local: tuple[Block, ...], found: Split) -> errors.GuideError:
    """The error for latents of the rows' own, of which q would have to hold all."""
    return errors.GuideError(
        f"the latents {[b.name for b in local]} are in the plates {sorted(found.plates)}, whose "
        "elements are read part by part, and q holds all of them. Mend: several processes, each "
        "with its rows (process_group=...), or minibatches of a plate of full size, "
        "pyro.plate(name, size, subsample=index)."
    )


def no_messages(guide: Any) -> errors.GuideError:
    """The error for a guide that is known by its draws alone."""
    return errors.GuideError(
        f"{type(guide).__name__} is known by its draws alone, or is a point mass, and has no "
        "messages that could be summed over processes. Mend: use AutoNatural(model)."
    )


def tiers_of(energy: Energy) -> dict[str, str]:
    """The tier of each factor, by name."""
    return {f.name: f.tier for f in energy.factors}


def names_by_rule(energy: Energy) -> set[str]:
    """The factors by quadrature."""
    return {f.name for f in energy.factors if f.tier == "quadrature"}


def layout_in_words(part: EnergyObjective) -> str:
    """The blocks of q and the parameters, in words."""
    energy = part.energy
    shared = ", ".join(
        f"{b.name} ({b.family.name} {tuple(b.batch_shape)} {b.event_size or ''})"
        for b in part.blocks
    )
    local = ", ".join(f"{b.name} ({b.family.name})" for b in energy.blocks if b not in part.blocks)
    blocks = f"{shared}{'; local ' if local else ''}{local}"
    parameters = sorted((n, tuple(p.value.shape)) for n, p in energy.traced.parameters.items())
    return f"blocks {blocks}; parameters {parameters}; EM of {[b.name for b in energy.points]}"


def state_in_words(blr: Any, part: EnergyObjective, shared: frozenset[str]) -> str:
    """What all processes must have in common before they step, in words."""
    energy = part.energy
    own = {
        (f.tier, tuple(sorted((b.name, f.is_conjugate_in(b)) for b in f.blocks)))
        for f in energy.factors
        if f.name not in shared
    }
    common = sorted((f.name, f.tier) for f in energy.factors if f.name in shared)
    held = part.moved(blr.view.naturals())
    leaves = [p.leaf for _, p in sorted(energy.traced.parameters.items())]
    options = {n: o for n in OPTIONS if not callable(o := getattr(blr, n))}
    return (
        f"step {blr.num_steps} of a model with {layout_in_words(part)}; shared factors {common}; "
        f"own factors {sorted(own)}; posterior {digest([t for n in held.values() for t in n])}; "
        f"parameters at {digest(leaves)}; options {options}"
    )


def digest(tensors: list[Tensor]) -> str:
    """A short name of numbers, other for other bits."""
    bits = hashlib.blake2b(digest_size=6)
    for tensor in tensors:
        bits.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return bits.hexdigest()
