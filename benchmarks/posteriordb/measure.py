# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Everything that is measured of one posterior, each side by the same judge."""

from typing import Any

from .. import machine
from ..family import State
from ..stan_models import Example
from ..unconstrained import LogJoint
from .blr_fit import SEEDS, BLRFit
from .judge import answers, judge_of
from .pyro_svi import PyroSVI
from .starts import count_of
from .store import Store
from .tuning import FULL, Plan, Side, Tuning
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
        """Pyro's SVI, tuned."""
        side = PyroSVI(self.example, self.args)
        start = "its default" if side.default else "the origin"
        return self._tuned(side, start)

    def numpyro(self) -> dict[str, Any] | None:
        """NumPyro's SVI, tuned; None without a twin of the model."""
        twin = twin_of(self.example)
        if twin is None:
            return None
        from .numpyro_svi import NumPyroSVI

        return self._tuned(NumPyroSVI(twin, self.args, self.joint), "its default")

    def blr(self, seeds: tuple[int, ...] = SEEDS) -> dict[str, Any]:
        """BLR over the seeds, measured anew at every call."""
        record = BLRFit(self.example, self.args, self.judge).measure(self.answers, seeds)
        self.store.put("blr", record)
        return record

    def _tuned(self, side: Side, start: str) -> dict[str, Any]:
        def search() -> dict[str, Any]:
            count = count_of(self.example)
            tuning = Tuning(side, self.judge, self.store, self.answers, count, self.plan)
            return {**tuning.search(), "start": start, "machine": machine.processor()}

        result: dict[str, Any] = self.store.once(side.name, "result", search)
        return result
