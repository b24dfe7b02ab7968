# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""PyMC's ADVI and full-rank ADVI (arXiv 1603.00788), with Adam in the place of its default.

Its learning rate is held between two looks and decays from one to the next: it has no schedules.
"""

from typing import Any

import numpy as np
import pymc as pm
import pytensor

from .pymc_twins import model_of, start_of
from .stepping import DECAY, search


def run(given: dict[str, Any]) -> dict[str, Any]:
    """The search."""
    return search(Steps, given)


class Steps:
    """One draw a step."""

    gradients = 1

    def __init__(self, given: dict[str, Any]) -> None:
        self.model = model_of(given)
        self.given, self.mean_field = given, given["family"] == "mean-field"
        self.rate = pytensor.shared(0.1)
        self.method: Any = None

    def start(self, rate: float, horizon: int, seed: int) -> None:
        """A new q; what PyTensor has compiled of the last one is used again."""
        self.first, self.horizon, self.done = rate, horizon, 0
        if self.method is None:
            make = pm.ADVI if self.mean_field else pm.FullRankADVI
            adam = pm.adam(learning_rate=self.rate)
            with self.model:
                self.method = make(start=start_of(self.given), random_seed=seed)
                # With its loss, as by default: without, it draws the same noise at every step.
                self.method.fit(1, progressbar=False, obj_optimizer=adam)
            approx = self.method.approx
            scale = approx.std if self.mean_field else approx.L
            self.read = pytensor.function([], [approx.mean, scale])
            self.begin = [p.get_value().copy() for p in self._shared()]
            return
        for place, value in zip(self._shared(), self.begin, strict=True):
            place.set_value(value.copy())

    def _shared(self) -> list[Any]:
        """Parameters of q, and Adam's moments: whatever a step changes."""
        shared = [v for v in self.method.state.step.get_shared() if v is not self.rate]
        return [v for v in shared if isinstance(v.get_value(), np.ndarray)]

    def advance(self, count: int) -> None:
        """Step."""
        middle = (self.done + count / 2) / self.horizon
        self.rate.set_value(self.first * DECAY**middle)
        self.method.refine(count, progressbar=False)
        self.done += count

    def state(self) -> dict[str, Any]:
        """Of q, by the names of the sites."""
        approx = self.method.approx
        sites = [
            (untransformed(name), int(np.prod(shape, dtype=int)))
            for name, (_, _, shape, _) in approx.ordering.items()
        ]
        loc, scale = self.read()
        return {"sites": sites, "loc": loc, "scale": scale}


def untransformed(name: str) -> str:
    """``tau_log__`` is of the site ``tau``."""
    for suffix in ("_log__", "_interval__", "_logodds__", "_simplex__"):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return name
