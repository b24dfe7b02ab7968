# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Peers that take steps with a learning rate: a search over it, with a look now and then.

A look keeps q as it is at that moment, and stops the clock. The learning rate decays exponentially
to DECAY of itself over a horizon: one that stands still ends in its own noise. All rates are run
over the short horizon, the better ones of them over the long one, and the peer is given the first
look of any run that is within the accuracy, its luck included; the search costs it nothing.
"""

import itertools
import math
import os
import time
from collections.abc import Iterator
from typing import Any, Protocol

#: Adam's learning rate at the start; it decays to so much of itself over the horizon.
RATES, DECAY = (0.2, 0.05, 0.0125), 0.01
#: The horizons, as shares of what the seconds allow, and how many rates go on to the second.
SHARES, SURVIVORS = (0.1, 1.0), 2
#: The shortest horizon, and the ratio of the steps at two looks: how exactly the time is known.
FIRST, RATIO = 8, 1.25
#: Steps of the first probe of their pace, and the share of the seconds that one takes at least.
PROBE, PART = 10, 0.1
#: Steps at a rate that does not decay.
MOST = 500


class Stepper(Protocol):
    """A method with a learning rate.

    ``gradients`` are those of the log joint that a step evaluates.
    """

    gradients: int

    def start(self, rate: float, horizon: int, seed: int) -> None:
        """Begin anew."""

    def advance(self, count: int) -> None:
        """Take steps."""

    def state(self) -> dict[str, Any]:
        """What is kept of q: ``loc`` and ``scale``, in the order of ``sites``."""


class Clock:
    """Seconds of the processor, which run while it is entered."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> "Clock":
        self._begin = _processor()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds += _processor() - self._begin


def _processor() -> float:
    """Seconds of this process, and of the compilers that it has called."""
    children = os.times()
    return time.process_time() + children.children_user + children.children_system


def looks(horizon: int) -> Iterator[int]:
    """The steps at which to look, up to the horizon."""
    steps = (math.ceil(RATIO**i) for i in itertools.count())
    every = sorted(set(itertools.takewhile(lambda step: step < horizon, steps)))
    yield from every
    yield horizon


def search(make: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Some runs of the search, and what compiling took.

    :param callable make: the stepper; what it does counts as compiling, with the first step.
    :param dict given: ``seconds`` of the longest horizon, ``seed``, and either ``rates`` with the
        ``share`` of that horizon, or ``settings``, each a rate and a horizon.
    """
    stepper, compiling, pace = _ready(make, given)
    longest = max(FIRST, int(given["seconds"] / pace))
    settings = given.get("settings") or [
        (rate, max(FIRST, int(given["share"] * longest))) for rate in given["rates"]
    ]
    runs = [_follow(stepper, rate, horizon, given["seed"]) for rate, horizon in settings]
    return {"compile": compiling, "runs": runs}


#: What was made of a problem in a family, as a worker is asked more than once.
_MADE: dict[tuple[str, str], tuple[Stepper, float, float]] = {}


def _ready(make: Any, given: dict[str, Any]) -> tuple[Stepper, float, float]:
    """The stepper, what compiling took, and the seconds of a step."""
    key, seed = (given["problem"], given["family"]), given["seed"]
    if key not in _MADE:
        cold, warm = Clock(), Clock()
        with cold:
            stepper = make(given)
            stepper.start(RATES[-1], PROBE, seed)
            stepper.advance(1)
        with warm:
            stepper.start(RATES[-1], PROBE, seed)
            stepper.advance(1)
        compiling = max(0.0, cold.seconds - warm.seconds)
        _MADE[key] = stepper, compiling, _pace(stepper, PART * given["seconds"])
    return _MADE[key]


def _pace(stepper: Stepper, enough: float) -> float:
    """Seconds of a step, of as many as take long enough: a call of few is mostly the call."""
    count = PROBE
    while True:
        clock = Clock()
        with clock:
            stepper.advance(count)
        if clock.seconds >= enough:
            return clock.seconds / count
        count *= 4


def held(make: Any, given: dict[str, Any], rates: tuple[float, ...]) -> dict[str, Any]:
    """The same for methods whose rate does not decay: each for the seconds that are given."""
    cold, warm = Clock(), Clock()
    with cold:
        stepper = make(given)
        stepper.start(rates[0], 1, given["seed"])
        stepper.advance(1)
    with warm:
        stepper.start(rates[0], 1, given["seed"])
        stepper.advance(1)
    runs = []
    for rate, _ in given.get("settings") or [(rate, 0) for rate in rates]:
        clock, done, seen = Clock(), 0, []
        with clock:
            stepper.start(rate, 1, given["seed"])
        for step in looks(MOST):
            with clock:
                stepper.advance(step - done)
            done = step
            look = {"seconds": clock.seconds, "gradients": step * stepper.gradients}
            seen.append({**look, **stepper.state()})
            if clock.seconds > given["seconds"]:
                break
        runs.append({"setting": f"rate {rate:g}", "rate": rate, "horizon": 0, "looks": seen})
    return {"compile": max(0.0, cold.seconds - warm.seconds), "runs": runs}


def _follow(stepper: Stepper, rate: float, horizon: int, seed: int) -> dict[str, Any]:
    """One run, and what was seen of it."""
    clock, done, seen = Clock(), 0, []
    with clock:
        stepper.start(rate, horizon, seed)
    for step in looks(horizon):
        with clock:
            stepper.advance(step - done)
        done = step
        # The first few steps of a hundred tell nothing.
        if step >= FIRST:
            look = {"seconds": clock.seconds, "gradients": step * stepper.gradients}
            seen.append({**look, **stepper.state()})
    name = f"Adam, lr {rate:g} decayed to {DECAY:g} of it in {horizon} steps"
    return {"setting": name, "rate": rate, "horizon": horizon, "looks": seen}
