# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What dynamax is asked to do by the benchmarks of latent variable models, by name."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

Arrays = dict[str, np.ndarray]


def fit_hmm(y: np.ndarray, means: np.ndarray, stay: np.ndarray, iterations: np.ndarray) -> Arrays:
    """EM of a Gaussian hidden Markov model, with its compilation, which every call repeats.

    Making the start is not counted. "cpu" is what the process used, for when a core was shared.
    The weak priors are its own; without any it divides by zero. The variances start at one.
    """
    import jax
    import jax.numpy as jnp
    from dynamax.hidden_markov_model import DiagonalGaussianHMM

    K, column = len(means), jnp.asarray(y)[:, None]
    hmm = DiagonalGaussianHMM(K, 1)
    away = (1 - float(stay)) / (K - 1)
    start, properties = hmm.initialize(
        jax.random.PRNGKey(0),
        initial_probs=jnp.full(K, 1 / K),
        transition_matrix=jnp.full((K, K), away) + (float(stay) - away) * jnp.eye(K),
        emission_means=jnp.asarray(means)[:, None],
        emission_scale_diags=jnp.ones((K, 1)),
    )
    jax.clear_caches()
    elapsed, cpu, (fitted, bounds) = _timed(
        lambda: hmm.fit_em(start, properties, column, num_iters=int(iterations), verbose=False)
    )
    posterior = hmm.smoother(fitted, column)
    return {
        "seconds": np.array(elapsed),
        "cpu": np.array(cpu),
        "bounds": np.asarray(bounds),
        "log_likelihood": np.asarray(posterior.marginal_loglik),
        "marginals": np.asarray(posterior.smoothed_probs),
        "means": np.asarray(fitted.emissions.means)[:, 0],
        "sds": np.asarray(fitted.emissions.scale_diags)[:, 0],
        "transition": np.asarray(fitted.transitions.transition_matrix),
        "initial": np.asarray(fitted.initial.probs),
    }


_PROGRAMS: dict[str, Any] = {}


def smooth(y: np.ndarray, parallel: np.ndarray, **parameters: np.ndarray) -> Arrays:
    """A linear Gaussian smoother, jitted, and warm: "compile" has the seconds of the first call."""
    import jax
    import jax.numpy as jnp
    from dynamax.linear_gaussian_ssm import (
        LinearGaussianSSM,
        lgssm_smoother,
        parallel_lgssm_smoother,
    )

    # With biases, which are zero: its parallel smoother cannot do without.
    model = LinearGaussianSSM(len(parameters["initial_mean"]), y.shape[1])
    made, _ = model.initialize(
        jax.random.PRNGKey(0),
        initial_mean=jnp.asarray(parameters["initial_mean"]),
        initial_covariance=jnp.asarray(parameters["initial_cov"]),
        dynamics_weights=jnp.asarray(parameters["transition"]),
        dynamics_bias=jnp.zeros(len(parameters["initial_mean"])),
        dynamics_covariance=jnp.asarray(parameters["transition_cov"]),
        emission_weights=jnp.asarray(parameters["emission"]),
        emission_bias=jnp.zeros(y.shape[1]),
        emission_covariance=jnp.asarray(parameters["emission_cov"]),
    )
    which, data, compiling = f"{bool(parallel)} {y.shape}", jnp.asarray(y), 0.0
    if which not in _PROGRAMS:
        _PROGRAMS[which] = jax.jit(parallel_lgssm_smoother if parallel else lgssm_smoother)
        compiling, _, _ = _timed(lambda: _PROGRAMS[which](made, data))
    elapsed, cpu, result = _timed(lambda: _PROGRAMS[which](made, data))
    return {
        "seconds": np.array(elapsed),
        "cpu": np.array(cpu),
        "compile": np.array(compiling),
        "log_evidence": np.asarray(result.marginal_loglik),
        "means": np.asarray(result.smoothed_means),
        "covs": np.asarray(result.smoothed_covariances),
    }


def _timed(function: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds by the clock, seconds of the processor, and the result."""
    import jax

    begin, cpu = time.perf_counter(), time.process_time()
    result = jax.block_until_ready(function())
    return time.perf_counter() - begin, time.process_time() - cpu, result


JOBS: dict[str, Callable[..., Arrays]] = {"fit_hmm": fit_hmm, "smooth": smooth}


def run(given: dict[str, Any]) -> dict[str, Any]:
    """The arrays that a job makes of those that it is given."""
    import jax

    jax.config.update("jax_enable_x64", True)
    return {"arrays": JOBS[given["job"]](**given["arrays"])}
