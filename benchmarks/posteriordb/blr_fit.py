# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""This package's side: BLR with AutoNaturalMultivariateNormal, nothing set, over twenty seeds."""

import logging
import math
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from pyro_blr import BLR, errors
from pyro_blr.guides import AutoNaturalMultivariateNormal

from ..family import State
from ..stan_models import Example
from ..timing import fresh
from .judge import NEAR, Judge
from .starts import count_of, is_scattered, scattered, seeds_of

SEEDS = tuple(range(20))
#: CPU seconds after which no further seed is begun: those that ran are told.
BUDGET = 600.0
COSTS = ("seconds", "wall_seconds", "steps", "gradients")

log = logging.getLogger(__name__)


class BLRFit:
    """BLR on one posterior."""

    def __init__(self, example: Example, args: tuple[Any, ...], judge: Judge) -> None:
        self.example, self.args, self.judge = example, args, judge

    def run(self, seed: int) -> tuple[State | None, dict[str, Any]]:
        """One fit, the guide's making counted, and its record; no state where it failed."""
        fresh(seed)
        begin, wall = time.process_time(), time.perf_counter()
        start = {"init_loc_fn": scattered} if is_scattered(seed) else {}
        guide = AutoNaturalMultivariateNormal(self.example.model, **start)
        blr = BLR(self.example.model, guide, on_sampled="ignore")
        try:
            fit = blr.fit(*self.args)
        except (errors.BLRError, NotImplementedError, ValueError, RuntimeError) as refusal:
            # Anything may go wrong in here, and a comparison tells it rather than ending.
            why = f"{type(refusal).__name__}: {refusal}"[:300]
            return None, {"gap": None, "failure": why, **_cost(begin, wall)}
        cost = _cost(begin, wall)
        loc, scale = guide.joint()
        state = State(loc, scale, torch.zeros(0, 2))
        gap = self.judge.gap(state)
        record = {
            "gap": gap if math.isfinite(gap) else None,
            "failure": failure(gap, fit.converged),
            "converged": fit.converged,
            "own_gap": fit.gap if math.isfinite(fit.gap) else None,
            "steps": fit.steps,
            # None as long as the fit does not count them, which the table tells.
            "gradients": getattr(fit, "gradients", None),
            **cost,
        }
        return state, record

    def best_of_starts(self, seed: int) -> tuple[State | None, dict[str, Any]]:
        """The best end of a run's starts, with the sum of their costs."""
        runs = [self.run(each) for each in seeds_of(seed, count_of(self.example))]
        state, record = min(runs, key=lambda run: _gap(run[1]))
        records = [r for _, r in runs]
        sums = {name: _sum(r.get(name) for r in records) for name in COSTS}
        log.info("blr: seed %d: %s", seed, {**record, **sums})
        return state, {**record, **sums}

    def measure(
        self, answers: Callable[[State], dict[str, Any]], seeds: tuple[int, ...]
    ) -> dict[str, Any]:
        """The seeds that the budget holds: medians, and the moments of the median gap's run."""
        runs: list[tuple[State | None, dict[str, Any]]] = []
        begin = time.process_time()
        for seed in seeds:
            if runs and time.process_time() - begin > BUDGET:
                break
            runs.append(self.best_of_starts(seed))
        state, middle = sorted(runs, key=lambda run: _gap(run[1]))[len(runs) // 2]
        records = [record for _, record in runs]
        medians = {name: _median(record[name] for record in records) for name in COSTS}
        failures = [record["failure"] for record in records if record["failure"]]
        return {
            **middle,
            **medians,
            "gaps": [record["gap"] for record in records],
            "failures": failures,
            "arrived": sum(_gap(record) <= NEAR for record in records),
            **({} if state is None else answers(state)),
        }


def _known(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None]


def _sum(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return sum(known) if known else None


def _median(values: Iterable[float | None]) -> float | None:
    known = _known(values)
    return statistics.median(known) if known else None


def failure(gap: float, converged: bool) -> str:
    """What is wrong with a fit that returned; empty if nothing is.

    Ending at the step limit, and saying so, is no failure; it is a gap.
    """
    if not math.isfinite(gap):
        return "NaN"
    return "false converged" if converged and gap > NEAR else ""


def _cost(begin: float, wall: float) -> dict[str, float]:
    return {
        "seconds": time.process_time() - begin,
        "wall_seconds": time.perf_counter() - wall,
    }


def _gap(record: dict[str, Any]) -> float:
    return math.inf if record["gap"] is None else float(record["gap"])
