# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""GPJax's natural gradients (arXiv 1803.09151), compiled, its kernel and inducing points held."""

from typing import Any

import equinox as eqx
import gpjax as gpx
import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as npd
from gpjax.natural_gradients import natural_gradient_step, partition_variational
from gpjax.parameters import val
from gpjax.variational_families import WhitenedVariationalGaussian

from .stepping import held

RATES = (1.0, 0.3, 0.1)


class Logistic(gpx.likelihoods.Bernoulli):
    """Its own Bernoulli has a probit link."""

    def link_function(self, f: Any) -> Any:
        """y given f."""
        return npd.Bernoulli(logits=f)


def negative_elbo(q: Any, data: Any) -> Any:
    """What a step lowers."""
    return -gpx.objectives.elbo(q, data)


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Every rate."""
    jax.config.update("jax_enable_x64", True)
    return held(Steps, given, RATES)


class Steps:
    """A step on all data; as many as there are between two looks are one call."""

    gradients = 1

    def __init__(self, given: dict[str, Any]) -> None:
        _, y, X, Z = (jnp.asarray(a) for a in given["args"])
        kernel = given["kernel"]
        prior = gpx.gps.Prior(
            kernel=gpx.kernels.RBF(
                lengthscale=float(kernel["length"]), variance=float(kernel["variance"])
            ),
            mean_function=gpx.mean_functions.Zero(),
            jitter=kernel["jitter"],
        )
        self.q = WhitenedVariationalGaussian(model=prior * Logistic(), inducing_inputs=Z)
        self.data = gpx.Dataset(X=X, y=y[:, None])
        self.sites, self.program = given["sites"], None

    def start(self, rate: float, horizon: int, seed: int) -> None:
        """At the prior."""
        self.rate = rate
        variational, hyper = partition_variational(self.q)
        self.at, self.fixed = eqx.partition(variational, eqx.is_array)
        self.hyper = hyper
        if self.program is None:
            self.program = jax.jit(self._steps).lower(self.at, rate, 1).compile()

    def _steps(self, at: Any, rate: Any, count: Any) -> Any:
        def step(_: Any, at: Any) -> Any:
            q = eqx.combine(at, self.fixed)
            stepped, _ = natural_gradient_step(q, self.hyper, self.data, negative_elbo, rate)
            return eqx.filter(stepped, eqx.is_array)

        return jax.lax.fori_loop(0, count, step, at)

    def advance(self, count: int) -> None:
        """Step."""
        self.at = jax.block_until_ready(self.program(self.at, self.rate, count))

    def state(self) -> dict[str, Any]:
        """The whitened law."""
        q = eqx.combine(self.at, self.fixed, self.hyper)
        loc = np.ravel(np.asarray(val(q.variational_mean)))
        scale = np.asarray(val(q.variational_root_covariance))
        return {"sites": self.sites, "loc": loc, "scale": scale}
