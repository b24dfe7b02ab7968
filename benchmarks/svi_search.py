# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Pyro's SVI at its best decayed learning rate."""

import logging
from dataclasses import dataclass
from typing import Any

from pyro.infer import SVI, Trace_ELBO
from pyro.optim import ExponentialLR
from torch.optim import Adam

from demo.models import Problem

from .family import State, state_of_autoguide
from .optimum import Optimum
from .timing import fresh, seconds

#: Adam's learning rate at the start; it decays to DECAY of it over a horizon of so many steps.
RATES = (1.0, 0.3, 0.1, 0.03)
DECAY = 0.01
#: The horizons that are tried, as shares of the longest one that the budget allows.
SHARES = (0.25, 0.5, 1.0)
#: Steps after which the time of one is known.
PROBE = 50
#: Steps between two looks at the guide; a look costs SVI no time.
INTERVAL = 25

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """A decayed learning rate, and where it led: the first look inside, else the last one."""

    rate: float
    horizon: int
    steps: int
    gap: float
    inside: bool

    def __str__(self) -> str:
        return f"lr {self.rate:g} decayed to {DECAY:g} of it over {self.horizon} steps"


class Run:
    """SVI with one schedule, from its own start.

    :param int seed: of the draws; two runs with the same one are the same.
    """

    def __init__(self, problem: Problem, rate: float, horizon: int, seed: int = 0) -> None:
        fresh(seed)
        self.guide = problem.svi_guide()
        # Not ClippedAdam: its clipping biases the heavy-tailed gradients of eight schools.
        self.optimiser = ExponentialLR(
            {"optimizer": Adam, "optim_args": {"lr": rate}, "gamma": DECAY ** (1 / horizon)}
        )
        self.svi = SVI(problem.model, self.guide, self.optimiser, Trace_ELBO())
        self.args = problem.args

    def steps(self, count: int) -> None:
        """Take so many steps."""
        for _ in range(count):
            self.svi.step(*self.args)
            self.optimiser.step()

    def state(self) -> State:
        """A copy of the guide's state."""
        return State(*(part.clone() for part in state_of_autoguide(self.guide)))


def search(problem: Problem, optimum: Optimum, nats: float, budget: float) -> Schedule:
    """The schedule that is first within so many nats of the optimum, or the one that came nearest.

    Luck counts for SVI: one look inside is enough.

    :param budget: the seconds that the longest horizon may take; if no schedule is inside by then,
        the budget is a lower bound of the time that SVI needs.
    """
    probe = seconds(lambda: Run(problem, RATES[-1], PROBE).steps(PROBE))[0]
    longest = max(INTERVAL, int(budget * PROBE / probe))
    runs: list[Schedule] = []
    for share in SHARES:
        horizon = max(INTERVAL, int(share * longest))
        runs += [follow(problem, optimum, nats, rate, horizon) for rate in RATES]
        inside = [run for run in runs if run.inside]
        if inside:
            return min(inside, key=lambda run: run.steps)
    return min(runs, key=lambda run: run.gap)


def follow(problem: Problem, optimum: Optimum, nats: float, rate: float, horizon: int) -> Schedule:
    """Run one schedule until a look finds the guide inside, or to its horizon."""
    run, taken, inside = Run(problem, rate, horizon), 0, False
    while taken + INTERVAL <= horizon and not inside:
        run.steps(INTERVAL)
        taken += INTERVAL
        inside = optimum.is_within(nats, run.state())
    result = Schedule(rate, horizon, taken, optimum.gap(run.state()), inside)
    log.info("%s: %s: %.4f nats after %d steps", problem.title, result, result.gap, taken)
    return result


def time_of(problem: Problem, schedule: Schedule, repeats: int) -> list[float]:
    """The seconds of making the guide and taking the schedule's steps, without any look."""

    def again() -> Any:
        Run(problem, schedule.rate, schedule.horizon).steps(schedule.steps)

    return [seconds(again)[0] for _ in range(repeats)]
