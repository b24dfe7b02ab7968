# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Tuning of stochastic variational inference, in favour of SVI: tuning costs it nothing.

A setting is Adam's learning rate, decayed exponentially to a hundredth of itself over the steps,
the number of steps and the number of particles. Settings are tuned by successive halving with one
seed (Jamieson and Talwalkar, arXiv 1502.07943), cheapest first, and a setting that comes within
NEAR there is verified with other seeds: it counts if the median of their final gaps is within NEAR,
and the cheapest that counts gives SVI's time.

Who tunes need not be who is timed. Pyro's SVI is tuned by NumPyro's, from Pyro's starts: the same
algorithm, compiled, so that far more settings can be looked at than Pyro would get through.
"""

import logging
import math
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from ..family import State
from ..store import Store
from .judge import NEAR, Judge
from .starts import seeds_of

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
    :param float cap: CPU seconds that a run of the side that is timed may be expected to take. A
        setting beyond it does not count, and it is told if tuning found that it would arrive.
    """

    rates: tuple[float, ...] = (0.01, 0.03, 0.1, 0.3)
    budgets: tuple[int, ...] = (200, 600, 2000, 6000, 20000)
    particles: tuple[int, ...] = (1, 10)
    survivors: tuple[int, ...] = (4, 4, 3, 2, 2)
    seeds: tuple[int, ...] = (1, 2, 3)
    cap: float = 300.0


FULL = Plan()
#: To test the code.
TINY = Plan(rates=(0.03, 0.3), budgets=(20,), particles=(1,), survivors=(2,), seeds=(1,))


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

    def run(self, setting: Setting, seed: int) -> Outcome:
        """Run to the end."""


class Trials:
    """The runs of one side, each kept.

    :param callable answers: what is kept of a q that came near, or that ran the longest.
    :param int starts: of every run, which has the best of their ends and the sum of their costs.
    """

    def __init__(
        self,
        side: Side,
        section: str,
        judge: Judge,
        store: Store,
        answers: Callable[[State], dict[str, Any]],
        starts: int = 1,
    ) -> None:
        self.side, self.section, self.judge, self.store = side, section, judge, store
        self.answers, self.starts = answers, starts

    def trial(self, setting: Setting, seed: int) -> dict[str, Any]:
        """The record of one run: its gap at the end, the best of its starts."""
        record: dict[str, Any] = self.store.once(
            self.section, _key(setting, seed), lambda: self._measure(setting, seed)
        )
        return record

    def gap(self, setting: Setting, seed: int) -> float:
        """In nats; infinite for a run that failed or that was not made."""
        record = self.store.content.get(self.section, {}).get(_key(setting, seed))
        return math.inf if record is None else gap_of(record)

    def _measure(self, setting: Setting, seed: int) -> dict[str, Any]:
        outcomes = [self.side.run(setting, each) for each in seeds_of(seed, self.starts)]
        gaps = [self.judge.gap(outcome.state) for outcome in outcomes]
        seconds = {
            name: sum(outcome.seconds[name] for outcome in outcomes) for name in outcomes[0].seconds
        }
        gap = min(gaps)
        best = outcomes[gaps.index(gap)].state
        log.info("%s: %s, seed %d: %.4g nats, %s", self.section, setting, seed, gap, seconds)
        return {
            "gap": gap if math.isfinite(gap) else None,
            "failed": sum(not math.isfinite(g) for g in gaps),
            "gradients": setting.gradients * self.starts,
            "seconds": seconds,
            **(self.answers(best) if gap < TOLD and seed != TUNING_SEED else {}),
        }


class Tuning:
    """The search for one side's cheapest setting.

    :param Trials trials: of the side that is timed.
    :param Trials scouts: of the side that tunes; the same one if left out.
    """

    def __init__(self, trials: Trials, scouts: Trials | None = None, plan: Plan = FULL) -> None:
        self.trials, self.scouts, self.plan = trials, scouts or trials, plan
        probe = trials.trial(Setting(1, plan.budgets[0], plan.rates[-1]), plan.seeds[0])
        self.pace = probe["seconds"]["all"] / plan.budgets[0]
        self.beyond: list[str] = []

    def search(self) -> dict[str, Any]:
        """The cheapest setting that counts, or where the longest one led."""
        scouted: list[Setting] = []
        for rung in self._rungs():
            scouted += rung
            gaps = {setting: gap_of(self.scouts.trial(setting, TUNING_SEED)) for setting in rung}
            for setting in sorted(gaps, key=gaps.__getitem__):
                if gaps[setting] >= NEAR:
                    continue
                if not self._is_affordable(setting):
                    self.beyond.append(str(setting))
                    continue
                records = self._verification(setting)
                if statistics.median(map(gap_of, records)) < NEAR:
                    return self._result(setting, records, censored=False)
        longest = max(
            filter(self._is_affordable, scouted),
            key=lambda s: (s.gradients, -self.scouts.gap(s, TUNING_SEED)),
        )
        records = self._verification(longest)
        arrived = statistics.median(map(gap_of, records)) < NEAR
        return self._result(longest, records, censored=not arrived)

    def _is_affordable(self, setting: Setting) -> bool:
        return self.pace * setting.gradients <= self.plan.cap

    def _verification(self, setting: Setting) -> list[dict[str, Any]]:
        """The runs of the other seeds, until more than half agree: the median is decided then.

        One far outside is not repeated: it is no matter of luck.
        """
        records: list[dict[str, Any]] = []
        for seed in self.plan.seeds:
            records.append(self.trials.trial(setting, seed))
            if gap_of(records[0]) > TOLD:
                return records
            for agreed in (
                [record for record in records if gap_of(record) < NEAR],
                [record for record in records if gap_of(record) >= NEAR],
            ):
                if 2 * len(agreed) > len(self.plan.seeds):
                    return agreed
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
            gaps = {r: self.scouts.gap(Setting(1, budget, r), TUNING_SEED) for r in rates}
            inside = [r for r, gap in gaps.items() if gap < WORTH]
            return sorted(inside, key=gaps.__getitem__)[:2]
        place = budgets.index(budget)
        if place == 0:
            return list(rates)
        earlier = budgets[place - 1]
        before = {r: self.scouts.gap(Setting(1, earlier, r), TUNING_SEED) for r in rates}
        return sorted(rates, key=before.__getitem__)[: self.plan.survivors[place]]

    def _result(
        self, setting: Setting, records: list[dict[str, Any]], censored: bool
    ) -> dict[str, Any]:
        """The medians over the seeds; the moments are those of the median gap."""
        middle = sorted(records, key=gap_of)[len(records) // 2]
        costs = {
            name: statistics.median(record["seconds"][name] for record in records)
            for name in middle["seconds"]
        }
        return {
            **middle,
            "setting": str(setting),
            "censored": censored,
            "gaps": [record["gap"] for record in records],
            "seconds": costs,
            "beyond_the_cap": self.beyond,
        }


def _key(setting: Setting, seed: int) -> str:
    return f"{setting}, seed {seed}"


def gap_of(record: dict[str, Any]) -> float:
    """The gap in nats; infinite for a run that failed."""
    return math.inf if record["gap"] is None else float(record["gap"])
