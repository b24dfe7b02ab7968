# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""NumPyro's side: SVI with AutoMultivariateNormal, compiled.

Its guide starts where it starts by default, uniformly within 2 of the origin.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpyro
import torch
from numpyro.infer import SVI, Trace_ELBO
from numpyro.infer.autoguide import AutoMultivariateNormal

from ..family import State
from ..unconstrained import LogJoint
from .tuning import DECAY, Outcome, Setting
from .twins import in_jax


class NumPyroSVI:
    """SVI of one posterior; ``compile`` is counted apart from the steps."""

    name = "numpyro_svi"

    def __init__(self, model: Callable[..., None], args: tuple[Any, ...], joint: LogJoint) -> None:
        self.model, self.args = model, in_jax(args)
        # NumPyro packs its sites by name, Pyro in the order of the model.
        places, at = {}, 0
        for name in sorted(joint.slices):
            size = joint.slices[name].stop - joint.slices[name].start
            places[name] = range(at, at + size)
            at += size
        self.order = [i for name in joint.slices for i in places[name]]

    def run(self, setting: Setting, seed: int) -> Outcome:
        """Run to the end."""
        begin = time.process_time()
        guide = AutoMultivariateNormal(self.model)
        rate = numpyro.optim.Adam(lambda i: setting.rate * DECAY ** (i / setting.steps))
        svi = SVI(self.model, guide, rate, Trace_ELBO(num_particles=setting.particles))
        state = svi.init(jax.random.PRNGKey(seed), *self.args)

        def steps(state: Any, args: Any) -> Any:
            return jax.lax.fori_loop(0, setting.steps, lambda _, s: svi.update(s, *args)[0], state)

        compiled = jax.jit(steps).lower(state, self.args).compile()
        ready = time.process_time()
        final = jax.block_until_ready(compiled(state, self.args))
        end = time.process_time()
        transform = guide.get_transform(svi.get_params(final))
        return Outcome(
            self._state(np.asarray(transform.loc), np.asarray(transform.scale_tril)),
            {"all": end - ready, "compile": ready - begin},
        )

    def _state(self, loc: Any, scale_tril: Any) -> State:
        """In the order of Pyro's; NaN where there is no Gaussian."""
        scale = torch.from_numpy(scale_tril.copy())[self.order]
        # The factor of the reordered covariance: L' of the QR of scale'.
        triangular = torch.linalg.qr(scale.T).R.T if scale.isfinite().all() else scale
        return State(torch.from_numpy(loc.copy())[self.order], triangular, torch.zeros(0, 2))
