# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""One model in pyro_blr and in BayesPy: the same bound, the same optimum, the time of a sweep."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from .rows import Check, Row
from .timing import fresh, in_turn, ratio

#: Sweeps before either side is timed: both have folded or allocated by then what they keep.
WARM_SWEEPS = 2
#: As a user sweeps, one package at a time, and often enough to see a busy moment.
IN_A_ROW, TIMES = 5, 5
#: Both sides have converged when a sweep moves neither bound by more than this, relatively.
STILL = 1e-9
MOST_SWEEPS = 300
#: Of the bound, relatively: at one q, and at the two optima.
SAME_Q, SAME_OPTIMUM = 1e-8, 1e-6


class Problem(Protocol):
    """A model in both packages, with its data and where q starts."""

    @property
    def name(self) -> str: ...

    @property
    def model(self) -> Callable[..., None]: ...

    @property
    def args(self) -> tuple[Any, ...]: ...

    def guide(self) -> AutoNatural:
        """A guide at the start."""

    def bayespy(self) -> tuple[Any, dict[str, Any]]:
        """BayesPy's engine at the start, and its nodes by site."""

    def naturals_of(self, latents: Mapping[str, Any]) -> dict[str, Any]:
        """BayesPy's q in natural parameters, of the sites that the guide has.

        What the guide sums out is first brought to its optimum.
        """


@dataclass(eq=False)
class Sides:
    """Both engines at the same start; -ELBO at the entry of our sweeps, at the end of theirs."""

    problem: Problem
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        fresh()
        self.guide = self.problem.guide()
        # Message passing as theirs is: no row's proportions are brought to their optimum first.
        self.blr = BLR(self.problem.model, self.guide, blocks="site", step_size=1.0)
        self.bayespy, self.nodes = self.problem.bayespy()

    def sweep(self, times: int, in_a_row: int = 1) -> dict[str, list[float]]:
        """Sweep in turn."""
        return in_turn(times, in_a_row, BayesPy=self._their_sweep, BLR=self._our_sweep)

    def _our_sweep(self) -> None:
        self.ours.append(self.blr.step(*self.problem.args))

    def _their_sweep(self) -> None:
        self.bayespy.update(repeat=1, verbose=False, tol=None)
        self.theirs.append(-float(self.bayespy.L[self.bayespy.iter - 1]))

    def at_their_q(self) -> tuple[float, float]:
        """-ELBO of the guide and of BayesPy, both at BayesPy's q."""
        self.guide.set_natural(self.problem.naturals_of(self.nodes))
        theirs = -float(self.bayespy.compute_lowerbound())
        return loss(self), theirs

    @property
    def rounding(self) -> float:
        """By how much rounding may let our bound fall, at the last sweep."""
        return self.blr.info.rounding

    @property
    def still(self) -> bool:
        """Whether the last sweep moved neither bound."""
        return all(
            len(losses) > 1 and abs(losses[-1] - losses[-2]) <= STILL * abs(losses[-1])
            for losses in (self.ours, self.theirs)
        )


def compare(benchmark: str, problem: Problem, limit: float, timed: int = TIMES) -> Row:
    """The time of a sweep, both packages going the same way; then on to both optima."""
    sides = Sides(problem)
    sides.sweep(WARM_SWEEPS)
    times = sides.sweep(timed, IN_A_ROW)
    while not sides.still and len(sides.ours) < MOST_SWEEPS:
        sides.sweep(1)
    return Row(
        benchmark,
        f"sweep, {problem.name}",
        Check("x faster than BayesPy", ratio(times["BayesPy"], times["BLR"]), limit, "at least"),
        quality(sides),
        times,
        ", ".join(f"{k} {1e3 * statistics.median(v):.2f} ms" for k, v in times.items())
        + f"; {len(sides.ours)} sweeps",
    )


def quality(sides: Sides) -> list[Check]:
    """What the two bounds and the way there are worth."""
    optimum = loss(sides)
    fall = max(0.0, *(new - old for old, new in pairwise([*sides.ours, optimum])))
    same_q, theirs = sides.at_their_q()
    return [
        Check("relative ELBO difference at BayesPy's q", abs(same_q / theirs - 1), SAME_Q),
        Check("of the optima", abs(optimum / theirs - 1), SAME_OPTIMUM),
        # A mixture's terms are those of all classes, far ones too: their sum bounds the rounding.
        Check("largest fall / 64 eps of the absolute terms", fall / sides.rounding, 1.0),
        Check("not converged", not sides.still, 0),
    ]


def loss(sides: Sides) -> float:
    """-ELBO of the guide."""
    return sides.blr.evaluate_loss(*sides.problem.args)
