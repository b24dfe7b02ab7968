# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""PyMC's multi-path Pathfinder (arXiv 2108.03782); its draws have no density."""

from typing import Any

import numpy as np
import pymc_extras as pmx

from .pymc_twins import model_of
from .stepping import Clock


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Its answer with nothing set but one process, and nothing printed."""
    model = model_of(given)
    cold, warm = Clock(), Clock()
    for clock in (cold, warm):
        with clock, model:
            found = pmx.fit_pathfinder(
                random_seed=given["seed"],
                progressbar=False,
                concurrent=None,
                display_summary=False,
                add_pathfinder_groups=False,
            )
    posterior = found.posterior
    values = {
        str(name): np.asarray(posterior[name]).reshape(-1, *posterior[name].shape[2:])
        for name in posterior.data_vars
    }
    # It compiles at every call: what is warm is the second call all the same.
    look = {"seconds": warm.seconds, "gradients": 0, "values": values}
    run = {"setting": "4 paths, importance resampling", "looks": [look]}
    return {"compile": max(0.0, cold.seconds - warm.seconds), "runs": [run]}
