# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""An engine whose data are spread over processes: what they must have in common, and its start."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import errors
from .chunks import Call, Parts, in_part, parts_in
from .energy.draws import Draws
from .energy.energy import Energy
from .energy.factors import KeptRule
from .energy.parts import Split, split
from .energy.trace import Traced
from .families import Natural
from .guides.views import charts_of
from .lifting import host
from .lifting.blocks import Block
from .objective import EnergyObjective
from .processes import Alone, Together
from .profile_objective import ProfileObjective
from .summed_objective import SummedObjective

Result = TypeVar("Result")

#: Why a factor that has a quadrature rule here is at draws.
OF_OTHERS = "another part of the data has no rule for it"


class OwnRows:
    """The one part that this process holds."""

    is_resident = True

    def __init__(self, part: EnergyObjective) -> None:
        self.part = part

    def each(self, draws: Draws | None) -> Iterator[EnergyObjective]:
        """That part, on some draws."""
        self.part.draws = draws
        yield self.part


class Chunks:
    """The parts that this process reads, one after the other.

    :param prepared: the objective of a call; of the first of all parts with what all share.
    """

    is_resident = False

    def __init__(
        self, parts: Parts, prepared: Callable[[Call, bool], EnergyObjective], shown: bool
    ) -> None:
        self._parts, self._prepared, self._shown = parts, prepared, shown

    def each(self, draws: Draws | None) -> Iterator[EnergyObjective]:
        """The objective of each part, which is forgotten when the next one is asked for."""
        for number, call in self._parts.calls(self._shown):
            with in_part(number):
                part = self._prepared(call, number == 0)
                part.draws = draws
                yield part


class Parted:
    """The data of an engine in parts: spread over processes, or read one after the other.

    :param together: the processes.
    :param plates: whose elements are spread; those of the observed sites if none is named.
    """

    def __init__(self, together: Alone | Together, plates: tuple[str, ...]) -> None:
        self.together = together
        self.plates = plates
        self.is_alone = isinstance(together, Alone)
        #: Whether the processes have the same start.
        self.has_started = self.is_alone
        #: Whether passes over parts that are read have a progress bar.
        self.shown = False
        self._shared: frozenset[str] = frozenset()
        self._refused: list[str] = []

    def seed(self) -> int:
        """A seed that all processes have."""
        return self.together.seed(host.seed())

    def guarded(self, compute: Callable[[], Result]) -> Result:
        """What is computed here; where it fails, all processes fail."""
        try:
            return compute()
        except Exception as error:
            raised = self.together.fail(error)
            if raised is error:
                raise
            raise raised from error

    def plates_of(self, traced: Traced) -> frozenset[str]:
        """The plates whose elements are spread."""
        return self.split(traced).plates

    def split(self, traced: Traced) -> Split:
        """Which factors all processes share."""
        return split(traced, self.plates)

    def objective(
        self,
        blr: Any,
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        kept: dict[str, KeptRule] | None,
    ) -> SummedObjective:
        """The objective of a call whose data are in parts.

        :raises ProcessError: if some process failed, or is at another place.
        """
        data = self.guarded(lambda: parts_in(args, kwargs))
        call: Call = (args, dict(kwargs)) if data is None else self.guarded(data.first)
        self._refused = []
        part = self.guarded(lambda: self._part(blr, call, True, data is not None))
        if not self.has_started:
            self._start(blr, part)
            part = self.guarded(lambda: self._part(blr, call, True, data is not None))
        energy = part.energy
        self.together.agree(_state(blr, part, self._shared))
        if energy.needs_rules:
            before = _by_rule(energy)
            self.guarded(lambda: blr.calibrate(part, kept if data is None else None))
            own = sorted(before - _by_rule(energy))
            self._refused = self.together.union(own, "factors without a rule")
            self.guarded(lambda: energy.give_up(self._refused, OF_OTHERS))
        if energy.has_sampled:
            own_sizes = [energy.sampled_numbers, energy.sampled_operations]
            table = self.together.of_each(own_sizes, "sizes of programs")
            numbers, operations = (int(max(column)) for column in zip(*table, strict=True))
            energy.largest = numbers, operations
        if data is None:
            return SummedObjective(part, OwnRows(part), self.together)
        tiers = _tiers(energy)

        def prepared(call: Call, is_first: bool) -> EnergyObjective:
            return self._chunk(blr, call, is_first, tiers)

        return SummedObjective(part, Chunks(data, prepared, self.shown), self.together)

    def _chunk(
        self, blr: Any, call: Call, is_first: bool, tiers: Mapping[str, str]
    ) -> EnergyObjective:
        """The objective of a part that was just read, on the tiers of all parts.

        :raises SampledFactorError: for a part of which a factor has no rule, unlike the others.
        """
        blr.invalidate()  # what was made of the last part's constants
        part = self._part(blr, call, is_first, True)
        part.energy.give_up(self._refused, OF_OTHERS)
        blr.calibrate(part)
        own = _tiers(part.energy)
        for name in own.keys() & tiers.keys():
            if own[name] != tiers[name]:
                raise errors.SampledFactorError(
                    f"factor {name!r} is {own[name]} here and {tiers[name]} in the first part: its "
                    "expectation has no quadrature rule here. Mend: scale or clean the covariates, "
                    "or a larger quad_tol."
                )
        return part

    def _part(self, blr: Any, call: Call, is_first: bool, is_read: bool) -> EnergyObjective:
        """One of this process's own, which nothing was exchanged for.

        :param is_first: whether it is the first one here.
        :param is_read: whether it is one of those that are read in turn.
        """
        part: EnergyObjective = blr.traced_objective(*call)
        energy = part.energy
        found = self.split(energy.traced)
        _check_served(blr, energy)
        energy.share = found.share(is_first and self.together.is_first)
        self._shared = found.shared
        local = local_blocks(energy, found)
        if not local:
            return part
        if is_read:
            raise _read_in_turn(local, found)
        return ProfileObjective(part, local, blr.view.naturals())

    def _start(self, blr: Any, part: EnergyObjective) -> None:
        """Where the first process starts, all do: q, and the model's parameters."""
        self.together.agree(_layout(part))
        blr.view.write(self._of_first(part.moved(blr.view.naturals()), "the start of q"))
        leaves = [p.leaf for _, p in sorted(part.energy.traced.parameters.items())]
        if leaves:
            flat = torch.cat([leaf.detach().reshape(-1).double() for leaf in leaves])
            flat = self.together.of_first(flat, "the start of parameters")
            with torch.no_grad():
                for leaf, own in zip(leaves, flat.split([x.numel() for x in leaves]), strict=True):
                    leaf.copy_(own.reshape(leaf.shape))
        self.has_started = True

    def seeded(
        self,
        objective: SummedObjective,
        naturals: Mapping[Block, Natural],
        seeded: Callable[[EnergyObjective], dict[Block, Natural]],
    ) -> dict[Block, Natural]:
        """Where the first process would start with its own rows, on every process."""
        start = dict(naturals)
        objective.first.draws = objective.draws
        if self.together.is_first:
            start = self.guarded(lambda: seeded(objective.first))
        return self._of_first(objective.moved(start), "where steps start")

    def _of_first(self, naturals: Mapping[Block, Natural], what: str) -> dict[Block, Natural]:
        flat = torch.cat([t.detach().reshape(-1) for n in naturals.values() for t in n])
        pieces = iter(
            self.together.of_first(flat, what).split(
                [t.numel() for n in naturals.values() for t in n]
            )
        )
        return {b: tuple(next(pieces).reshape(t.shape) for t in n) for b, n in naturals.items()}


def _check_served(blr: Any, energy: Energy) -> None:
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


def _read_in_turn(local: tuple[Block, ...], found: Split) -> errors.GuideError:
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


def _tiers(energy: Energy) -> dict[str, str]:
    """The tier of each factor, by name."""
    return {f.name: f.tier for f in energy.factors}


def _by_rule(energy: Energy) -> set[str]:
    """The factors by quadrature."""
    return {f.name for f in energy.factors if f.tier == "quadrature"}


def _layout(part: EnergyObjective) -> str:
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


def _state(blr: Any, part: EnergyObjective, shared: frozenset[str]) -> str:
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
    return (
        f"step {blr.num_steps} of a model with {_layout(part)}; shared factors {common}; own "
        f"factors {sorted(own)}; posterior {_digest([t for n in held.values() for t in n])}; "
        f"parameters at {_digest(leaves)}"
    )


def _digest(tensors: list[Tensor]) -> str:
    """A short name of numbers, other for other bits."""
    bits = hashlib.blake2b(digest_size=6)
    for tensor in tensors:
        bits.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return bits.hexdigest()
