# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""BlackJAX's mean-field and full-rank VI, compiled: one program for all settings."""

from typing import Any

import blackjax
import jax
import numpy as np
import optax

from .stepping import DECAY, search
from .unconstrained_jax import flat, log_joint, sites


def run(given: dict[str, Any]) -> dict[str, Any]:
    """The search."""
    jax.config.update("jax_enable_x64", True)
    return search(Steps, given)


class Steps:
    """Ten draws a step: it has no setting for one that is its own, 5 and 100 are both defaults."""

    gradients = 10

    def __init__(self, given: dict[str, Any]) -> None:
        self.log_joint, self.position = log_joint(given)
        self.mean_field = given["family"] == "mean-field"
        self.has_start = bool(given["start"])
        self.program: Any = None

    def _vi(self, rate: Any, horizon: Any) -> Any:
        adam = optax.adam(lambda i: rate * DECAY ** (i / horizon))
        make = blackjax.meanfield_vi if self.mean_field else blackjax.fullrank_vi
        return make(self.log_joint, adam, num_samples=self.gradients)

    def start(self, rate: float, horizon: int, seed: int) -> None:
        """A new q: zero +- exp(-2), or about the start that every side has."""
        self.rate, self.horizon = rate, horizon
        state = self._vi(rate, horizon).init(self.position)
        if self.has_start:
            state = state._replace(mu=self.position)
        self.at = jax.random.PRNGKey(seed), state
        if self.program is None:
            self.program = jax.jit(self._steps).lower(self.at, rate, horizon, 1).compile()

    def _steps(self, at: Any, rate: Any, horizon: Any, count: Any) -> Any:
        vi = self._vi(rate, horizon)

        def step(_: Any, at: Any) -> Any:
            key, own = jax.random.split(at[0])
            return key, vi.step(own, at[1])[0]

        return jax.lax.fori_loop(0, count, step, at)

    def advance(self, count: int) -> None:
        """Step."""
        self.at = jax.block_until_ready(self.program(self.at, self.rate, self.horizon, count))

    def state(self) -> dict[str, Any]:
        """Of q."""
        state, names = self.at[1], sites(self.position)
        if self.mean_field:
            return {"sites": names, "loc": flat(state.mu), "scale": np.exp(flat(state.rho))}
        scale = triangular(np.asarray(state.chol_params))
        return {"sites": names, "loc": flat(state.mu), "scale": scale}


def triangular(packed: Any) -> Any:
    """BlackJAX packs the logarithms of the diagonal first, then what is below it, by rows."""
    dim = int(np.sqrt(0.25 + 2 * len(packed)) - 0.5)
    scale = np.zeros((dim, dim))
    scale[np.tril_indices(dim, -1)] = packed[dim:]
    return scale + np.diag(np.exp(packed[:dim]))
