# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Wall times."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import pyro


def seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    """The wall time of one call, and what it returned."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def in_turn(
    repeats: int, in_a_row: int = 1, **functions: Callable[[], Any]
) -> dict[str, list[float]]:
    """Time several functions in turn, so that a busy moment of the machine falls on all of them.

    :param in_a_row: calls of one before the next, of which the mean time is taken: what is called
        in a loop in practice has its code and data in the processor's caches then.
    """
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            took = seconds(lambda run=function: [run() for _ in range(in_a_row)])[0]
            times[name].append(took / in_a_row)
    return times


def ratio(numerator: list[float], denominator: list[float]) -> float:
    """The median of the ratios of neighbouring measurements."""
    return statistics.median(n / d for n, d in zip(numerator, denominator, strict=True))


def fresh(seed: int = 0) -> None:
    """Forget what an earlier fit left in the process: its parameters and its place in the draws."""
    pyro.clear_param_store()
    pyro.set_rng_seed(seed)
