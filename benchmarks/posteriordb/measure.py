# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Everything that is measured of one posterior, each side by the same judge."""

from typing import Any

from .. import machine
from ..family import State
from ..stan_models import Example
from ..store import Store
from ..unconstrained import LogJoint
from .blr_fit import SEEDS, BLRFit
from .judge import answers, judge_of
from .pyro_svi import PyroSVI
from .starts import count_of
from .tuning import FULL, Plan, Side, Trials, Tuning
from .twins import twin_of


class Measuring:
    """One posterior, its judge and its store."""

    def __init__(
        self,
        example: Example,
        args: tuple[Any, ...],
        store: Store,
        plan: Plan = FULL,
    ) -> None:
        self.example, self.args, self.store, self.plan = example, args, store, plan
        self.joint = LogJoint(example.model, args)
        self.judge = judge_of(example, self.joint, store)

    def answers(self, q: State) -> dict[str, Any]:
        """What q says."""
        return answers(self.example, self.joint, q)

    def pyro(self) -> dict[str, Any]:
        """Pyro's SVI, tuned, by NumPyro's where there is a twin of the model."""

        def search() -> dict[str, Any]:
            side = PyroSVI(self.example, self.args)
            trials = self._trials(side, "pyro_svi_trials")
            scout = self._numpyro_side(side.start_values)
            scouts = None if scout is None else self._trials(scout, "pyro_svi_tuning")
            start = "its default" if side.default else "the origin"
            return self._told(Tuning(trials, scouts, self.plan), start)

        result: dict[str, Any] = self.store.once("pyro_svi", "result", search)
        return result

    def numpyro(self) -> dict[str, Any] | None:
        """NumPyro's SVI, tuned; None without a twin of the model."""
        side = self._numpyro_side(None)
        if side is None:
            return None

        def search() -> dict[str, Any]:
            trials = self._trials(side, "numpyro_svi_trials")
            return self._told(Tuning(trials, plan=self.plan), "its default")

        result: dict[str, Any] = self.store.once("numpyro_svi", "result", search)
        return result

    def blr(self, seeds: tuple[int, ...] = SEEDS) -> dict[str, Any]:
        """BLR over the seeds, measured anew at every call."""
        record = BLRFit(self.example, self.args, self.judge).measure(self.answers, seeds)
        self.store.put("blr", record)
        return record

    def _numpyro_side(self, start: Any) -> Side | None:
        twin = twin_of(self.example)
        if twin is None:
            return None
        from .numpyro_svi import NumPyroSVI

        return NumPyroSVI(twin, self.args, self.joint, start)

    def _trials(self, side: Side, section: str) -> Trials:
        count = count_of(self.example)
        return Trials(side, section, self.judge, self.store, self.answers, count)

    def _told(self, tuning: Tuning, start: str) -> dict[str, Any]:
        return {**tuning.search(), "start": start, "machine": machine.processor()}
