# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""dynamax's EM for hidden Markov models, with its own weak priors; it finds a point."""

from typing import Any

import jax
import numpy as np

from .dynamax_jobs import fit_hmm

#: It has as many iterations as it needs until one gains less, in nats: counted in a run apart.
GAIN, MOST_ITERATIONS = 0.01, 200


def run(given: dict[str, Any]) -> dict[str, Any]:
    """The means. Compilation is what one iteration takes beyond its share of many."""
    jax.config.update("jax_enable_x64", True)
    y, _ = given["args"]
    rows, means = given["start"]["rows"], given["start"]["mu"]
    stay = np.array(rows[0, 0])

    def fit(iterations: int) -> tuple[float, dict[str, Any]]:
        found = fit_hmm(y, means, stay, np.array(iterations))
        return float(found["cpu"]), found

    gains = np.diff(fit(MOST_ITERATIONS)[1]["bounds"])
    still = np.flatnonzero(np.abs(gains) < GAIN)
    iterations = int(still[0]) + 2 if len(still) else MOST_ITERATIONS
    one, _ = fit(1)
    many, found = fit(iterations)
    warm = (many - one) * iterations / max(1, iterations - 1)
    run = {
        "setting": f"{iterations} iterations",
        "looks": [{"seconds": max(warm, 0.0), "gradients": 0}],
        "answers": {"mu": (found["means"], None)},
    }
    return {"compile": max(0.0, many - warm), "runs": [run]}
