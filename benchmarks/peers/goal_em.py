# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""goal-jax's EM of a mixture of Normals with diagonal covariances, without any prior."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from goal.geometry import Diagonal
from goal.models import AnalyticMixture, Normal

from .stepping import Clock

#: As many iterations as it needs until one gains less, in nats over all rows.
GAIN, MOST_ITERATIONS = 0.01, 300


def run(given: dict[str, Any]) -> dict[str, Any]:
    """The means, from the start that every side has."""
    jax.config.update("jax_enable_x64", True)
    y, K = given["args"]
    xs, start = jnp.asarray(y), given["start"]
    normal = Normal(y.shape[1], Diagonal)
    mixture = AnalyticMixture(normal, K)
    columns = [
        normal.join_mean_covariance(
            normal.loc_man.mean_point(jnp.asarray(mean)),
            normal.cov_man.mean_point(jnp.asarray(1 / tau)),
        ).array
        for mean, tau in zip(start["mu"], start["tau"], strict=True)
    ]
    components = mixture.cmp_man.mean_point(jnp.stack(columns))
    weights = mixture.lat_man.from_probs(jnp.full(K, 1 / K))
    params = mixture.to_natural(mixture.join_mean_mixture(components, weights))

    @jax.jit
    def step(params: Any) -> tuple[Any, Any]:
        bound = mixture.average_log_observable_density(params, xs)
        return mixture.expectation_maximization(params, xs), bound

    cold, warm = Clock(), Clock()
    with cold:
        jax.block_until_ready(step(params))
    before, iterations, gain = -np.inf, 0, np.inf
    while gain >= GAIN and iterations < MOST_ITERATIONS:
        iterations += 1
        with warm:
            params, bound = jax.block_until_ready(step(params))
        gain, before = len(y) * (float(bound) - before), float(bound)
    columns, _ = mixture.split_mean_mixture(mixture.to_mean(params))
    run = {
        "setting": f"{iterations} iterations",
        "looks": [{"seconds": warm.seconds, "gradients": 0}],
        "answers": {"mu": (np.asarray(columns.array)[:, : y.shape[1]], None)},
    }
    return {"compile": max(0.0, cold.seconds - warm.seconds / iterations), "runs": [run]}
