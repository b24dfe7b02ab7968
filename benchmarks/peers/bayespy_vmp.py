# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""BayesPy: variational message passing, sweep by sweep, with its own bound."""

from typing import Any

import torch

from ..problems.catalogue import load
from .stepping import Clock

#: It has converged when a sweep moves its bound by no more than this, in nats.
STILL, MOST_SWEEPS = 1e-4, 300


def run(given: dict[str, Any]) -> dict[str, Any]:
    """From the start that every side has."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(given["threads"])
    problem = load(given["problem"], given["data"], given["tiny"])
    clock, seen = Clock(), []
    with clock:
        engine, _ = problem.bayespy.bayespy()
    before = -float("inf")
    while not seen or (len(seen) < MOST_SWEEPS and clock.seconds < given["seconds"]):
        with clock:
            engine.update(repeat=1, verbose=False, tol=None)
        bound = float(engine.L[engine.iter - 1])
        seen.append({"seconds": clock.seconds, "gradients": 0, "own": bound})
        if abs(bound - before) < STILL:
            break
        before = bound
    return {"compile": 0.0, "runs": [{"setting": f"{len(seen)} sweeps", "looks": seen}]}
