# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Tuning of stochastic variational inference, in favour of SVI: tuning costs it nothing.

A setting is Adam's learning rate, decayed exponentially to a hundredth of itself over the steps,
the number of steps and the number of particles. Settings are tuned by successive halving with one
seed (Jamieson and Talwalkar, arXiv 1502.07943), cheapest first, and a setting that comes within
NEAR there is verified with three other seeds: it counts if the median of their final gaps is
within NEAR, and the cheapest that counts gives SVI's time.
"""

import logging
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ..family import State
from .judge import NEAR, Judge
from .starts import seeds_of
from .store import Store

#: Adam's rate decays to so much of itself over the steps.
DECAY = 0.01
TUNING_SEED = 0
#: Nats within which noise may be what keeps one particle from arriving.
WORTH = 10.0
#: A q within so many nats is worth its moments.
TOLD = 1.0


@dataclass(frozen=True)
class Plan:
    """What is tried.

    :param tuple survivors: how many rates run at each budget.
    :param tuple seeds: of the verification.
    :param float cap: CPU seconds that one run may be expected to take; a longer one is left out,
        which is said in the result.
    """

    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    budgets: tuple[int, ...] = (200, 600, 2000, 6000, 20000)
    particles: tuple[int, ...] = (1, 10)
    survivors: tuple[int, ...] = (4, 2, 2, 1, 1)
    seeds: tuple[int, ...] = (1, 2, 3)
    cap: float = 300.0


FULL = Plan()
#: To test the code.
TINY = Plan(budgets=(20, 60), particles=(1,), survivors=(4, 2), seeds=(1,))


log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """One way to run SVI."""

    particles: int
    steps: int
    rate: float

    @property
    def gradients(self) -> int:
        """Evaluations of the gradient of the log joint."""
        return self.particles * self.steps

    def __str__(self) -> str:
        return f"lr {self.rate:g}, {self.steps} steps, {self.particles} particles"


@dataclass(frozen=True)
class Outcome:
    """Where a run ended, and its cost.

    :param dict seconds: CPU seconds, by what is counted.
    """

    state: State
    seconds: dict[str, float]


class Side(Protocol):
    """A library's SVI on one posterior."""

    name: str

    def run(self, setting: Setting, seed: int) -> Outcome:
        """Run to the end."""


class Tuning:
    """The search for one side's cheapest setting.

    :param callable answers: what is kept of a q that came near, or that ran the longest.
    :param int starts: of every run, which has the best of their ends and the sum of their costs.
    """

    def __init__(
        self,
        side: Side,
        judge: Judge,
        store: Store,
        answers: Callable[[State], dict[str, Any]],
        starts: int = 1,
        plan: Plan = FULL,
    ) -> None:
        self.side, self.judge, self.store, self.answers = side, judge, store, answers
        self.starts, self.plan = starts, plan
        self.section = f"{side.name}_trials"
        self.left_out: list[str] = []
        self._seconds_per_gradient = 0.0

    def trial(self, setting: Setting, seed: int) -> dict[str, Any]:
        """The record of one run: its gap at the end, the best of its starts."""
        key = f"{setting}, seed {seed}"
        record: dict[str, Any] = self.store.once(
            self.section, key, lambda: self._measure(setting, seed)
        )
        self._seconds_per_gradient = record["seconds"]["all"] / setting.gradients
        return record

    def _measure(self, setting: Setting, seed: int) -> dict[str, Any]:
        outcomes = [self.side.run(setting, each) for each in seeds_of(seed, self.starts)]
        gaps = [self.judge.gap(outcome.state) for outcome in outcomes]
        seconds = {
            name: sum(outcome.seconds[name] for outcome in outcomes) for name in outcomes[0].seconds
        }
        gap = min(gaps)
        best = outcomes[gaps.index(gap)].state
        log.info("%s: %s, seed %d: %.4g nats, %s", self.side.name, setting, seed, gap, seconds)
        told = math.isfinite(gap) and (gap < TOLD or setting.steps == self.plan.budgets[-1])
        return {
            "gap": gap if math.isfinite(gap) else None,
            "failed": sum(not math.isfinite(g) for g in gaps),
            "gradients": setting.gradients * self.starts,
            "seconds": seconds,
            **(self.answers(best) if told else {}),
        }

    def search(self) -> dict[str, Any]:
        """The cheapest setting that counts, or where the longest one led."""
        longest: tuple[float, Setting] | None = None
        for rung in self._rungs():
            arrived = []
            for setting in rung:
                if self._seconds_per_gradient * setting.gradients > self.plan.cap:
                    self.left_out.append(str(setting))
                    continue
                record = self.trial(setting, TUNING_SEED)
                cost = record["seconds"]["all"]
                if longest is None or cost > longest[0]:
                    longest = cost, setting
                if gap_of(record) < NEAR:
                    arrived.append(setting)
            for setting in sorted(arrived, key=lambda s: gap_of(self.trial(s, TUNING_SEED))):
                records = self._verification(setting)
                if statistics.median(map(gap_of, records)) < NEAR:
                    return self._result(setting, records, censored=False)
        assert longest is not None
        record = self.trial(longest[1], TUNING_SEED)
        return self._result(longest[1], [record], censored=True)

    def _verification(self, setting: Setting) -> list[dict[str, Any]]:
        """The runs of the other seeds; no more of them once more than half are outside."""
        records: list[dict[str, Any]] = []
        for seed in self.plan.seeds:
            records.append(self.trial(setting, seed))
            outside = [record for record in records if gap_of(record) >= NEAR]
            if 2 * len(outside) > len(self.plan.seeds):
                return outside
        return records

    def _rungs(self) -> Iterator[list[Setting]]:
        """Settings of equal cost, the cheapest first; those that halving leaves at each."""
        plan = self.plan
        costs = sorted((p * b, p, b) for p in plan.particles for b in plan.budgets)
        for _, particles, budget in costs:
            yield [Setting(particles, budget, rate) for rate in self._surviving(particles, budget)]

    def _surviving(self, particles: int, budget: int) -> list[float]:
        """The rates that go on: the best by one particle's gaps at the budget before.

        More particles take away noise and nothing else. They are tried with the rates that one
        particle took to the same budget, where it came within WORTH.
        """
        rates, budgets = self.plan.rates, self.plan.budgets
        if particles > 1:
            gaps = {r: self._tuned_gap(Setting(1, budget, r)) for r in rates}
            inside = [r for r, gap in gaps.items() if gap < WORTH]
            return sorted(inside, key=gaps.__getitem__)[:2]
        place = budgets.index(budget)
        if place == 0:
            return list(rates)
        before = {r: self._tuned_gap(Setting(1, budgets[place - 1], r)) for r in rates}
        return sorted(rates, key=before.__getitem__)[: self.plan.survivors[place]]

    def _tuned_gap(self, setting: Setting) -> float:
        """Of the tuning seed; infinite for a setting that did not run."""
        key = f"{setting}, seed {TUNING_SEED}"
        records = self.store.content.get(self.section, {})
        return gap_of(records[key]) if key in records else math.inf

    def _result(
        self, setting: Setting, records: list[dict[str, Any]], censored: bool
    ) -> dict[str, Any]:
        """The medians over the seeds; the moments are those of the median gap."""
        middle = sorted(records, key=gap_of)[len(records) // 2]
        costs = {
            name: statistics.median(record["seconds"][name] for record in records)
            for name in middle["seconds"]
        }
        tried = self.store.content[self.section].values()
        return {
            **middle,
            "setting": str(setting),
            "censored": censored,
            "gaps": [record["gap"] for record in records],
            "seconds": costs,
            "left_out": self.left_out,
            "best_gap_tried": min(map(gap_of, tried)),
        }


def gap_of(record: dict[str, Any]) -> float:
    """The gap in nats; infinite for a run that failed."""
    return math.inf if record["gap"] is None else float(record["gap"])
