# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Pyro's SVI with its automatic Gaussian guides."""

from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal, AutoNormal
from pyro.infer.autoguide.initialization import init_to_median
from pyro.optim import ExponentialLR
from torch.optim import Adam

from ..memory import begin, risen
from ..problems.catalogue import load
from ..timing import fresh
from .stepping import DECAY, search


def run(given: dict[str, Any]) -> dict[str, Any]:
    """The search."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(given["threads"])
    # The checks that Pyro's users switch off when they measure.
    pyro.enable_validation(False)
    problem = load(given["problem"], given["data"], given["tiny"])
    before = begin()

    class Steps:
        """One particle a step; discrete latents are summed out by the model."""

        gradients = 1

        def __init__(self, _: dict[str, Any]) -> None:
            pass

        def start(self, rate: float, horizon: int, seed: int) -> None:
            """A new guide."""
            fresh(seed)
            make = AutoNormal if given["family"] == "mean-field" else AutoMultivariateNormal
            begin = problem.init_loc_fn or init_to_median
            self.guide = make(problem.marginal, init_loc_fn=begin)
            # Not ClippedAdam: its clipping biases heavy-tailed gradients.
            self.optimiser = ExponentialLR(
                {"optimizer": Adam, "optim_args": {"lr": rate}, "gamma": DECAY ** (1 / horizon)}
            )
            self.svi = SVI(problem.marginal, self.guide, self.optimiser, Trace_ELBO())

        def advance(self, count: int) -> None:
            """Step."""
            for _ in range(count):
                self.svi.step(*problem.args)
                self.optimiser.step()

        def state(self) -> dict[str, Any]:
            """Of the guide's parameters."""
            return gaussian(self.guide)

    found = search(Steps, given)
    return {**found, "memory": risen(before)}


def gaussian(guide: Any) -> dict[str, Any]:
    """Mean and scale over the sites, by their names, as NumPy has them."""
    names = [
        (name, site["value"].shape) for name, site in guide.prototype_trace.iter_stochastic_nodes()
    ]
    with torch.no_grad():
        if isinstance(guide, AutoMultivariateNormal):
            law = guide.get_posterior()
            loc, scale = law.loc.numpy().copy(), law.scale_tril.numpy().copy()
            sizes = {n: guide._unconstrained_shapes[n].numel() for n, _ in names}
            return {"sites": list(sizes.items()), "loc": loc, "scale": scale}
        parts = {n: (_flat(guide.locs, n), _flat(guide.scales, n)) for n, _ in names}
    return {
        "sites": [(name, len(loc)) for name, (loc, _) in parts.items()],
        "loc": torch.cat([loc for loc, _ in parts.values()]).numpy(),
        "scale": torch.cat([scale for _, scale in parts.values()]).numpy(),
    }


def _flat(holder: Any, name: str) -> torch.Tensor:
    value: Any = holder
    for part in name.split("."):
        value = getattr(value, part)
    result: torch.Tensor = value.detach().clone().reshape(-1)
    return result
