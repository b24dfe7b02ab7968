# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""NumPyro's side: SVI with AutoMultivariateNormal, compiled.

Its guide starts where it starts by default, uniformly within 2 of the origin.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import numpyro
import torch
from numpyro.infer import SVI, Trace_ELBO, init_to_uniform, init_to_value
from numpyro.infer.autoguide import AutoMultivariateNormal
from torch import Tensor

from ..family import State
from ..unconstrained import LogJoint
from .tuning import DECAY, Outcome, Setting
from .twins import in_jax


class NumPyroSVI:
    """SVI of one posterior; ``compile`` is counted apart from the steps.

    One program is compiled for each number of particles, in which the learning rate and the number
    of steps are arguments.

    :param callable start: the latents where the guide starts, by name, from the seed; NumPyro's own
        default if None. With Pyro's starts this is Pyro's algorithm, a hundred times as fast.
    """

    def __init__(
        self,
        model: Callable[..., None],
        args: tuple[Any, ...],
        joint: LogJoint,
        start: Callable[[int], Mapping[str, Tensor]] | None = None,
    ) -> None:
        self.model, self.args = model, in_jax(args)
        self.start = start
        self._programs: dict[int, tuple[Any, float]] = {}
        self.slices = joint.slices

    def run(self, setting: Setting, seed: int) -> Outcome:
        """Run to the end."""
        begin = time.process_time()
        guide = AutoMultivariateNormal(self.model, init_loc_fn=self._init(seed))
        svi = self._svi(guide, setting.particles, setting.rate, setting.steps)
        state = svi.init(jax.random.PRNGKey(seed), *self.args)
        made = time.process_time() - begin
        program, compiling = self._program(svi, guide, setting.particles, state)
        begin = time.process_time()
        final = jax.block_until_ready(program(state, setting.rate, setting.steps))
        elapsed = time.process_time() - begin
        transform = guide.get_transform(svi.get_params(final))
        return Outcome(
            self._state(guide, np.asarray(transform.loc), np.asarray(transform.scale_tril)),
            {"all": elapsed, "compile": made + compiling},
        )

    def _init(self, seed: int) -> Any:
        if self.start is None:
            return init_to_uniform
        return init_to_value(values=in_jax(dict(self.start(seed))))

    def _svi(self, guide: Any, particles: int, rate: Any, steps: Any) -> Any:
        adam = numpyro.optim.Adam(lambda i: rate * DECAY ** (i / steps))
        return SVI(self.model, guide, adam, Trace_ELBO(num_particles=particles))

    def _program(self, svi: Any, guide: Any, particles: int, state: Any) -> tuple[Any, float]:
        """The steps, compiled, and the seconds that this took."""
        if particles not in self._programs:

            def steps(state: Any, rate: Any, count: Any) -> Any:
                inner = self._svi(guide, particles, rate, count)
                inner.constrain_fn = svi.constrain_fn
                return jax.lax.fori_loop(
                    0, count, lambda _, s: inner.update(s, *self.args)[0], state
                )

            begin = time.process_time()
            program = jax.jit(steps).lower(state, 0.1, 1).compile()
            self._programs[particles] = program, time.process_time() - begin
        return self._programs[particles]

    def _state(self, guide: Any, loc: Any, scale_tril: Any) -> State:
        """In the order of the model; NaN where there is no Gaussian."""
        places, at = {}, 0
        # The guide packs its sites in an order of its own, which only this dictionary tells.
        for name in guide._init_locs:
            size = self.slices[name].stop - self.slices[name].start
            places[name] = range(at, at + size)
            at += size
        order = [i for name in self.slices for i in places[name]]
        scale = torch.from_numpy(scale_tril.copy())[order]
        # The factor of the reordered covariance: L' of the QR of scale'.
        triangular = torch.linalg.qr(scale.T).R.T if scale.isfinite().all() else scale
        return State(torch.from_numpy(loc.copy())[order], triangular, torch.zeros(0, 2))
