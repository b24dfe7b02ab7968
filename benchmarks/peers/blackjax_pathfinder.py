# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""BlackJAX's Pathfinder (arXiv 2108.03782): the best Gaussian along a path of L-BFGS."""

from typing import Any

import blackjax
import jax
import numpy as np

from .stepping import Clock
from .unconstrained_jax import log_joint

#: Draws of q for the judge.
DRAWS = 4096


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Its answer with nothing set, compiled; draws with their log density."""
    jax.config.update("jax_enable_x64", True)
    function, position = log_joint(given)
    key = jax.random.PRNGKey(given["seed"])
    program = jax.jit(lambda key, z: blackjax.vi.pathfinder.approximate(key, function, z))
    cold, warm = Clock(), Clock()
    for clock in (cold, warm):
        with clock:
            state, info = jax.block_until_ready(program(key, position))
    z, log_q = blackjax.vi.pathfinder.sample(key, state, DRAWS)
    elbos = np.asarray(info.path.elbo)
    iterations = int(np.isfinite(elbos).sum())
    look = {
        "seconds": warm.seconds,
        # 200 draws at each iteration, of which only the density is taken; a gradient an iteration.
        "gradients": iterations,
        "values": {name: np.asarray(v) for name, v in z.items()},
        "log_q": np.asarray(log_q),
        "unconstrained": True,
    }
    run = {"setting": f"{iterations} iterations, 200 draws each", "looks": [look]}
    return {"compile": max(0.0, cold.seconds - warm.seconds), "runs": [run]}
