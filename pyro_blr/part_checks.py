# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What is no sum over parts, and what parts must have in common, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import errors
from .digests import digest
from .energy.energy import Energy
from .energy.parts import Split
from .lifting.blocks import Block
from .objective import EnergyObjective
from .refusals import check_adds_up
from .state import OPTIONS

#: Priors are the same if what they say is, to this share: processes may run on other machines.
ALIKE = 1e-6


def check_summed(blr: Any, energy: Energy) -> None:
    """Refuse what is no sum over parts.

    :raises SubsampleError: for a minibatch.
    :raises GuideError: for a guide whose coordinates are not natural ones.
    """
    rows = (
        "the data are in parts already, and the messages of all parts are summed as they are. "
        "Mend: pass all rows of the part, pyro.plate(name, len(y)), without subsample."
    )
    check_adds_up(blr.view, energy, rows, "its steps are no sums over the parts of the data")


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


def frozen_in_words(model: Any) -> str:
    """A name of the weights that are constants of a network, where the model says which."""
    frozen = getattr(model, "frozen", None)
    tensors = frozen.values() if isinstance(frozen, Mapping) else ()
    return f"frozen weights {digest(t for t in tensors if isinstance(t, Tensor))}"


def state_in_words(blr: Any, part: EnergyObjective, shared: frozenset[str], is_read: bool) -> str:
    """What all processes must have in common before they step, in words.

    :param shared: the factors that all parts share.
    :param is_read: whether the data are read in parts.
    """
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
        f"parameters at {digest(leaves)}; options {options}; the data of the process "
        f"{'are read in Parts' if is_read else 'are in memory'}"
    )


def values_of(blr: Any, part: EnergyObjective, shared: frozenset[str]) -> dict[str, float]:
    """The expected log density at the start of each exact factor that all parts share, by name."""
    energy = part.energy
    with torch.no_grad():
        moments = energy.moments({**energy.points, **blr.view.naturals()})
        return {
            f.name: float(f.evaluate(moments, None, None)[0])
            for f in energy.factors
            if f.name in shared and f.tier == "exact"
        }


def check_alike(own: Mapping[str, float], values: Sequence[Sequence[float]]) -> None:
    """Refuse priors that the processes do not share.

    :param own: what each is here, by name.
    :param values: of each process, in this order.
    :raises ProcessError: naming the first one that differs.
    """
    for name, each in zip(own, zip(*values, strict=True), strict=True):
        if max(each) - min(each) > ALIKE * max(1.0, *map(abs, each)):
            listed = ", ".join(f"{v:.6g} in process {rank}" for rank, v in enumerate(each))
            raise errors.ProcessError(
                f"factor {name!r} is outside of the sharded plates, so that all processes share "
                f"it, but its expected log density differs between them ({listed}). Mend: the same "
                "constants everywhere, not ones that are made of a process's own rows (a scale "
                "from their spread, say); or put it into the plate."
            )
