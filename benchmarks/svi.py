# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The three models of the demo: BLR against Pyro's SVI, each to 0.01 nats of its own optimum.

Both sides start anew in a warm process: guide, engine and steps are timed, compilers are not
involved, and evaluating how near an iterate is costs neither side any time. The optimum of each
side's family is found by L-BFGS on fixed draws, and both sides' iterates are judged on them.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

from demo.models import PROBLEMS, Problem
from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from .family import Family, family_of_natural_guide, state_of_natural_guide
from .optimum import optimum
from .rows import Check, Row, Settings
from .svi_search import search, time_of
from .timing import fresh, seconds
from .unconstrained import LogJoint

NAME = "svi"
NEAR = 0.01  # nats
OPTIMUM_ERROR = 0.001  # nats
#: SVI is followed for so many times BLR's time, twice what the limit needs: if it is not there by
#: then under any schedule, the ratio is a lower bound, and the row says so.
TIMES = 40.0


def run(settings: Settings) -> Iterator[Row]:
    """One row for each model."""
    for make in PROBLEMS[:1] if settings.tiny else PROBLEMS:
        yield compare(make(), repeats=1 if settings.tiny else 5)


@dataclass(frozen=True)
class Measured:
    """One side's time to within NEAR, and how good its answers are by the fixed draws."""

    steps: int
    seconds: list[float]
    quality: list[Check]
    note: str

    @property
    def median(self) -> float:
        """Seconds."""
        return statistics.median(self.seconds)


def compare(problem: Problem, repeats: int) -> Row:
    """Time both sides."""
    blr = measure_blr(problem, repeats)
    svi = measure_svi(problem, min(repeats, 3), TIMES * blr.median)
    return Row(
        NAME,
        problem.title,
        Check("x faster than SVI", svi.median / blr.median, 20.0, "at least"),
        [*blr.quality, *svi.quality],
        {"BLR": blr.seconds, "SVI": svi.seconds},
        f"{blr.note}; {svi.note}",
    )


def measure_blr(problem: Problem, repeats: int) -> Measured:
    """Count the steps to within NEAR once, then time as many, with nothing in between."""
    fresh()
    guide = AutoNatural(problem.model)
    engine = BLR(problem.model, guide)
    fit = engine.fit(*problem.args)
    final = engine.evaluate_loss(*problem.args)
    losses = [*fit.losses, final]
    steps = next(i for i, loss in enumerate(losses) if loss - final <= NEAR)
    family = family_of_natural_guide(LogJoint(problem.model, problem.args), guide)
    best = optimum(family, OPTIMUM_ERROR)
    converged_gap = best.gap(state_of_natural_guide(guide))

    def again() -> AutoNatural:
        fresh()
        guide = AutoNatural(problem.model)
        engine = BLR(problem.model, guide)
        engine.fit(*problem.args, max_steps=steps)
        return guide

    times = [seconds(again) for _ in range(repeats)]
    quality = [
        Check("BLR gap", best.gap(state_of_natural_guide(times[-1][1])), NEAR + best.error),
        Check("once converged", abs(converged_gap), OPTIMUM_ERROR + best.error),
        Check("its optimum's error", best.error, OPTIMUM_ERROR),
    ]
    elapsed = [t for t, _ in times]
    note = f"BLR {steps} steps, {statistics.median(elapsed):.3f} s, -ELBO {final:.4f}"
    return Measured(steps, elapsed, quality, note)


def measure_svi(problem: Problem, repeats: int, budget: float) -> Measured:
    """Time the best schedule of the search.

    :param budget: seconds for which a schedule may run.
    """
    family = Family(LogJoint(problem.model, problem.args), problem.groups)
    best = optimum(family, OPTIMUM_ERROR)
    schedule = search(problem, best, NEAR, budget)
    error = Check("SVI's optimum's error", best.error, OPTIMUM_ERROR)
    times = time_of(problem, schedule, repeats if schedule.inside else 1)
    came = "" if schedule.inside else f" and NOT there yet ({schedule.gap:.3f} nats): at least"
    note = (
        f"SVI {schedule.steps} steps{came} {statistics.median(times):.3f} s, {schedule}, "
        f"-ELBO at best {-best.elbo:.4f}"
    )
    return Measured(schedule.steps, times, [error], note)
