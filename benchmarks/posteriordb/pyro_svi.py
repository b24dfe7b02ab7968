# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Pyro's side: SVI with AutoMultivariateNormal."""

import math
import time
from collections.abc import Callable
from typing import Any

from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.infer.autoguide.initialization import init_to_median
from pyro.optim import ExponentialLR
from torch import Tensor
from torch.optim import Adam

from ..family import state_of_autoguide
from ..optimum import WALL
from ..stan_models import Example, origin
from ..timing import fresh
from .starts import is_scattered, scattered
from .tuning import DECAY, Outcome, Setting

Start = Callable[[Any], Tensor]


class PyroSVI:
    """SVI of one posterior, from the guide's default start where the model has one.

    It has none where a prior is improper or where the log joint is not finite at the prior's
    median; then the start is the origin of the unconstrained space. Several starts are Stan's:
    uniform within 2 of the origin.
    """

    def __init__(self, example: Example, args: tuple[Any, ...]) -> None:
        self.model, self.args = example.model, args
        self.default = self._default_is_feasible()

    def _default_is_feasible(self) -> bool:
        fresh()
        try:
            guide = AutoMultivariateNormal(self.model, init_loc_fn=init_to_median)
            losses = [Trace_ELBO().loss(self.model, guide, *self.args) for _ in range(10)]
        except (NotImplementedError, ValueError, RuntimeError):
            return False
        return all(math.isfinite(loss) and abs(loss) < WALL for loss in losses)

    def start(self, seed: int) -> Start:
        """The first start of a seed is the default or the origin, the others are scattered."""
        if is_scattered(seed):
            return scattered
        return init_to_median if self.default else origin

    def start_values(self, seed: int) -> dict[str, Tensor]:
        """The latents where a run with this seed starts."""
        fresh(seed)
        guide = AutoMultivariateNormal(self.model, init_loc_fn=self.start(seed))
        guide(*self.args)
        values: dict[str, Tensor] = guide.median(*self.args)
        return {name: value.detach() for name, value in values.items()}

    def run(self, setting: Setting, seed: int) -> Outcome:
        """Run to the end; the time is that of the guide and the steps."""
        fresh(seed)
        begin = time.process_time()
        guide = AutoMultivariateNormal(self.model, init_loc_fn=self.start(seed))
        # Not ClippedAdam: its clipping biases heavy-tailed gradients.
        optimiser = ExponentialLR(
            {
                "optimizer": Adam,
                "optim_args": {"lr": setting.rate},
                "gamma": DECAY ** (1 / setting.steps),
            }
        )
        svi = SVI(self.model, guide, optimiser, Trace_ELBO(num_particles=setting.particles))
        for _ in range(setting.steps):
            # A run that is lost costs no more time.
            if not math.isfinite(svi.step(*self.args)):
                break
            optimiser.step()
        elapsed = time.process_time() - begin
        return Outcome(state_of_autoguide(guide), {"all": elapsed})
