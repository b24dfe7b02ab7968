# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The results as a table."""

import math

from .models import Problem
from .svi import CLOSE, Result

HEAD = (
    "problem",
    "engine",
    "family of q",
    "steps",
    "seconds",
    f"to {CLOSE} nats",
    "-ELBO reached",
    "at its own optimum",
    "gap in nats",
)


def table(results: list[tuple[Problem, Result, Result]]) -> str:
    """One line for each problem and engine, and how many times faster BLR was."""
    rows = [HEAD, tuple("-" * len(h) for h in HEAD)]
    for problem, svi, blr in results:
        rows += [row(problem, svi), row(problem, blr)]
    widths = [max(len(r[i]) for r in rows) for i in range(len(HEAD))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]
    return "\n".join([*lines, "", *(speed(*r) for r in results)])


def row(problem: Problem, result: Result) -> tuple[str, ...]:
    """The cells of one engine on one problem."""
    is_blr = result.engine == "BLR"
    close = result.seconds_to(CLOSE)
    return (
        problem.title,
        result.engine,
        problem.family[is_blr],
        str(result.steps),
        f"{result.total:.2f}",
        f"{close:.2f} s" if math.isfinite(close) else "not reached",
        f"{result.loss:.4f}" + error(result.loss_error),
        f"{result.optimum:.4f}",
        f"{result.gap:.1e}" + error(result.gap_error),
    )


def error(value: float) -> str:
    """A standard error behind its number; nothing where there is none."""
    return f" +- {value:.4f}" if value else ""


def speed(problem: Problem, svi: Result, blr: Result) -> str:
    """How much sooner BLR came close to its family's optimum."""
    needed, taken = blr.seconds_to(CLOSE), svi.seconds_to(CLOSE)
    if math.isfinite(taken):
        times = f"{taken / needed:.0f} times sooner than SVI ({taken:.1f} s)"
    else:
        times = f"SVI was not after {svi.total:.1f} s, {svi.total / needed:.0f} times as long"
    return f"{problem.title}: BLR is within {CLOSE} nats of its optimum in {needed:.2f} s; {times}"
