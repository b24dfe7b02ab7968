# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""An engine whose data are spread over processes: what they must have in common, and its start."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor

from . import errors
from .chunks import Call, Parts, in_part, parts_in
from .derivatives import cut, flattened, shapes_of
from .digests import digest
from .energy.draws import Draws
from .energy.factors import KeptRule
from .energy.parts import Split, split
from .energy.traced import Traced
from .families import Natural
from .kept_sums import KeptSum
from .lifting import host
from .lifting.blocks import Block
from .objective import EnergyObjective
from .part_checks import (
    check_alike,
    check_summed,
    frozen_in_words,
    layout_in_words,
    local_blocks,
    names_by_rule,
    read_in_turn,
    state_in_words,
    tiers_of,
    values_of,
)
from .processes import Alone, Together, known_to_all
from .profile_objective import ProfileObjective
from .signatures import misfit, signature_of
from .summed_objective import SummedObjective

Result = TypeVar("Result")

#: Why a factor that has a quadrature rule here is at draws.
OF_OTHERS = "another part of the data has no rule for it"


class OwnRows:
    """The one part that this process holds."""

    is_resident = True

    def __init__(self, part: EnergyObjective) -> None:
        self.part = part

    def kept(self, what: str, at: Sequence[Tensor]) -> None:
        """Nothing of a sum is kept: the part stays in memory."""

    def each(
        self, draws: Draws | None, known: KeptSum | None = None
    ) -> Iterator[tuple[int, EnergyObjective]]:
        """That part, on some draws."""
        self.part.draws = draws
        yield 0, self.part


class Chunks:
    """The parts that this process reads, one after the other.

    :param prepared: the objective of a call; of the first of all parts with what all share.
    """

    is_resident = False

    def __init__(
        self,
        parts: Parts,
        prepared: Callable[[Call, bool], EnergyObjective],
        shown: bool,
        state: Callable[[], str],
    ) -> None:
        self._parts, self._prepared, self._shown, self._state = parts, prepared, shown, state

    def kept(self, what: str, at: Sequence[Tensor]) -> KeptSum | None:
        """What is known of a sum from an interrupted call, where such are kept.

        :param what: in words.
        :param at: where it is taken.
        """
        if self._parts.kept is None:
            return None
        return self._parts.kept.sum_of(digest(at, f"{what}; {self._state()}"))

    def each(
        self, draws: Draws | None, known: KeptSum | None = None
    ) -> Iterator[tuple[int, EnergyObjective]]:
        """The objective of each part, which is forgotten when the next one is asked for."""
        for number, call in self._parts.calls(self._shown, 0 if known is None else known.known):
            if known is not None and known.has(number, call):
                continue
            with in_part(number):
                part = self._prepared(call, number == 0)
                part.draws = draws
                yield number, part


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
        with known_to_all(self.together):
            return compute()

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

        def looked_at() -> EnergyObjective:
            with nullcontext() if data is None else in_part(0):
                return self._part(blr, call, True, data is not None)

        part = self.guarded(looked_at)
        if not self.has_started:
            self._start(blr, part)
            part = self.guarded(looked_at)
            priors = self.guarded(lambda: values_of(blr, part, self._shared))
            each = self.together.of_each(list(priors.values()), f"priors of {list(priors)}")
            check_alike(priors, each)
        if data is not None and self.guarded(lambda: self._takes_up(blr, data)):
            part = self.guarded(looked_at)
        self.together.agree(state_in_words(blr, part, self._shared, data is not None))
        self._calibrate(blr, part, kept if data is None else None)
        if data is None:
            return SummedObjective(part, OwnRows(part), self.together)
        tiers = tiers_of(part.energy)

        def prepared(call: Call, is_first: bool) -> EnergyObjective:
            return self._chunk(blr, call, is_first, tiers)

        def state() -> str:
            return state_in_words(blr, part, self._shared, True)

        return SummedObjective(part, Chunks(data, prepared, self.shown, state), self.together)

    def _calibrate(self, blr: Any, part: EnergyObjective, kept: dict[str, KeptRule] | None) -> None:
        """Choose rules of quadrature that all processes have, and tell the size of programs."""
        energy = part.energy
        if energy.needs_rules:
            before = names_by_rule(energy)
            self.guarded(lambda: blr.calibrate(part, kept))
            own = sorted(before - names_by_rule(energy))
            self._refused = self.together.union(own, "factors without a rule")
            self.guarded(lambda: energy.give_up(self._refused, OF_OTHERS))
        if energy.has_sampled:
            own_sizes = [energy.at_draws.numbers, energy.at_draws.operations]
            table = self.together.of_each(own_sizes, "sizes of programs")
            numbers, operations = (int(max(column)) for column in zip(*table, strict=True))
            energy.largest = numbers, operations

    def _takes_up(self, blr: Any, data: Parts) -> bool:
        """Whether an interrupted call goes on, in the state in which it began; else keep that."""
        kept, begins = data.kept_for(self.together.rank, self.together.size)
        if kept is None or not begins:
            return False
        if kept.state is None:
            kept.begin(blr.state_dict())
            return False
        blr.load_state_dict(kept.state)
        self.has_started = True  # as it had when it began
        return True

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
        own = tiers_of(part.energy)
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
        part = _traced(blr, call, is_read)
        energy = part.energy
        found = self.split(energy.traced)
        check_summed(blr, energy)
        energy.share = found.share(is_first and self.together.is_first)
        self._shared = found.shared
        local = local_blocks(energy, found)
        if not local:
            return part
        if is_read:
            raise read_in_turn(local, found)
        return ProfileObjective(part, local, blr.view.naturals())

    def _start(self, blr: Any, part: EnergyObjective) -> None:
        """Where the first process starts, all do: q, and the model's parameters."""
        self.together.agree(f"{layout_in_words(part)}; {frozen_in_words(blr.model)}")
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
        seeded: Callable[[EnergyObjective, Mapping[Block, Natural]], dict[Block, Natural]],
    ) -> dict[Block, Natural]:
        """Where the first process would start with its own rows, on every process."""
        start = dict(naturals)
        objective.first.draws = objective.draws
        if self.together.is_first:
            start = self.guarded(lambda: seeded(*objective.first.of_all(naturals)))
        return self._of_first(objective.moved(start), "where steps start")

    def _of_first(self, naturals: Mapping[Block, Natural], what: str) -> dict[Block, Natural]:
        flat = flattened(naturals.values()).detach()
        return cut(self.together.of_first(flat, what), shapes_of(naturals))


def _traced(blr: Any, call: Call, is_read: bool) -> EnergyObjective:
    """The objective of a call.

    :param is_read: whether its arguments are a part of the data that was read.
    :raises ArgumentError: if the model does not take them.
    """
    try:
        return blr.traced_objective(*call)  # type: ignore[no-any-return]
    except TypeError as error:
        why = misfit(blr.model, *call) if is_read else None
        if why is None:
            raise
        raise errors.ArgumentError(
            f"the model, whose arguments are {signature_of(blr.model)}, cannot be called with what "
            f"was read: {why}. Mend: Parts(loader, to_args), where to_args returns its arguments "
            "for a batch, as a tuple or a dict."
        ) from error
