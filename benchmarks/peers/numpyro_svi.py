# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""NumPyro's SVI with its automatic Gaussian guides, compiled: one program for all settings."""

from typing import Any

import jax
import numpy as np
import numpyro
from numpyro.infer import SVI, Trace_ELBO, init_to_uniform, init_to_value
from numpyro.infer.autoguide import AutoMultivariateNormal, AutoNormal

from .numpyro_twins import TWINS
from .stepping import DECAY, search


def run(given: dict[str, Any]) -> dict[str, Any]:
    """The search."""
    numpyro.enable_x64()
    return search(Steps, given)


class Steps:
    """One particle a step; as many steps as there are between two looks are one call."""

    gradients = 1

    def __init__(self, given: dict[str, Any]) -> None:
        self.model, self.args = TWINS[given["problem"]], given["args"]
        self.mean_field = given["family"] == "mean-field"
        start = given["start"]
        self.init = init_to_value(values=start) if start else init_to_uniform
        self.program: Any = None

    def start(self, rate: float, horizon: int, seed: int) -> None:
        """A new guide, of which the program of the first one is used again."""
        make = AutoNormal if self.mean_field else AutoMultivariateNormal
        self.guide = make(self.model, init_loc_fn=self.init)
        self.rate, self.horizon = rate, horizon
        self.svi = self._svi(rate, horizon)
        self.at = self.svi.init(jax.random.PRNGKey(seed), *self.args)
        if self.program is None:
            self.program = jax.jit(self._steps()).lower(self.at, rate, horizon, 1).compile()

    def _svi(self, rate: Any, horizon: Any) -> Any:
        adam = numpyro.optim.Adam(lambda i: rate * DECAY ** (i / horizon))
        return SVI(self.model, self.guide, adam, Trace_ELBO())

    def _steps(self) -> Any:
        def steps(state: Any, rate: Any, horizon: Any, count: Any) -> Any:
            inner = self._svi(rate, horizon)
            inner.constrain_fn = self.svi.constrain_fn
            return jax.lax.fori_loop(0, count, lambda _, s: inner.update(s, *self.args)[0], state)

        return steps

    def advance(self, count: int) -> None:
        """Step."""
        self.at = jax.block_until_ready(self.program(self.at, self.rate, self.horizon, count))

    def state(self) -> dict[str, Any]:
        """Of the guide's parameters."""
        params = self.svi.get_params(self.at)
        sizes = {n: int(np.size(v)) for n, v in self.guide._init_locs.items()}
        if not self.mean_field:
            law = self.guide.get_transform(params)
            loc, scale = np.asarray(law.loc), np.asarray(law.scale_tril)
            return {"sites": list(sizes.items()), "loc": loc, "scale": scale}
        found = {
            key: np.concatenate([np.ravel(params[f"{n}_auto_{key}"]) for n in sizes])
            for key in ("loc", "scale")
        }
        return {"sites": list(sizes.items()), **found}
