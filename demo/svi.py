# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Both engines on one problem, timed, and what they reached."""

import math
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.optim import ClippedAdam
from tqdm import tqdm

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from .fixed_draws import NUM_SETS, FixedDraws, Gaussian
from .models import Problem

#: What both engines are asked for: to be this close to the best that their family can do.
CLOSE = 0.01
#: SVI's state is kept at so many steps, evenly on a log scale, to see its ELBO without noise.
NUM_SNAPSHOTS = 30


@dataclass
class Result:
    """What one engine did on one problem.

    :param seconds: the time at each point of the curve; the clock stands still while SVI's state
        is copied and while -ELBO is evaluated for the curve.
    :param gaps: -ELBO less that of the family's own optimum at these points, in nats.
    :param loss: -ELBO as reached, with its standard error (0 where it is exact).
    :param marginals: the posterior of the sites that the picture shows.
    """

    engine: str
    steps: int
    total: float
    loss: float
    optimum: float
    gap: float
    loss_error: float = 0.0
    gap_error: float = 0.0
    seconds: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    marginals: dict[str, Any] = field(default_factory=dict)

    def seconds_to(self, gap: float) -> float:
        """When the curve first comes within a gap of the optimum; infinite if it never does."""
        pairs = zip(self.seconds, self.gaps, strict=True)
        return next((s for s, g in pairs if g <= gap), math.inf)


class Clock:
    """Seconds spent inside ``with`` blocks, summed."""

    def __init__(self) -> None:
        self.total = 0.0

    def __enter__(self) -> None:
        self.start = perf_counter()

    def __exit__(self, *exc: object) -> None:
        self.total += perf_counter() - self.start


def run_svi(problem: Problem, num_steps: int | None = None) -> Result:
    """SVI with Adam; then its family's own optimum by L-BFGS, from where it came to."""
    num_steps = num_steps or problem.svi_steps
    draws = FixedDraws(problem)
    kept = snapshots(num_steps)
    states, seconds = [], []
    clock = Clock()
    with clock:
        guide = problem.svi_guide()
        optim = ClippedAdam({"lr": problem.learning_rate, "lrd": 0.01 ** (1 / num_steps)})
        svi = SVI(problem.model, guide, optim, Trace_ELBO())
    for step in tqdm(range(1, num_steps + 1), desc=f"{problem.title}, SVI", mininterval=0.5):
        with clock:
            svi.step(*problem.args)
        if step in kept:
            states.append(Gaussian.of_guide(guide))
            seconds.append(clock.total)

    with tqdm(desc=f"{problem.title}, best of SVI's family", unit=" evaluations") as bar:
        best = draws.optimum(states[-1], lambda loss: bar.update())
    with torch.no_grad():
        losses = [draws.loss(q) for q in states]
        optimum = draws.loss(best)
    gaps = [loss - optimum for loss in losses]
    return Result(
        "SVI",
        num_steps,
        clock.total,
        loss=losses[-1].mean().item(),
        optimum=optimum.mean().item(),
        gap=gaps[-1].mean().item(),
        loss_error=standard_error(losses[-1]),
        gap_error=standard_error(gaps[-1]),
        seconds=seconds,
        gaps=[gap.mean().item() for gap in gaps],
        marginals=draws.marginals(states[-1]),
    )


class TimedBLR(BLR):
    """BLR that notes when each of its steps began."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.began: list[float] = []

    def step_on(self, objective: Any, watched: bool = False) -> float:
        self.began.append(perf_counter())
        return super().step_on(objective, watched)


def run_blr(problem: Problem) -> tuple[Result, str]:
    """BLR until it certifies its own gap; and its explanation."""
    start = perf_counter()
    guide = AutoNatural(problem.model)
    blr = TimedBLR(problem.model, guide)
    fit = blr.fit(*problem.args, progress=True)
    total = perf_counter() - start
    reached = blr.evaluate_loss(*problem.args)
    optimum = reached - fit.gap
    result = Result(
        "BLR",
        fit.steps,
        total,
        loss=reached,
        optimum=optimum,
        gap=fit.gap,
        # -ELBO is known at the entry of each step, and at the end.
        seconds=[began - start for began in blr.began] + [total],
        gaps=[loss - optimum for loss in fit.losses] + [fit.gap],
        marginals={name: guide.marginal(name) for name in problem.labels},
    )
    return result, str(blr.explain(*problem.args))


def snapshots(num_steps: int) -> set[int]:
    """The steps after which SVI's state is kept."""
    powers = torch.linspace(0, math.log(num_steps), NUM_SNAPSHOTS)
    return {round(x) for x in powers.exp().tolist()} | {num_steps}


def standard_error(sets: torch.Tensor) -> float:
    """Of the mean over independent sets of draws."""
    return (sets.std() / NUM_SETS**0.5).item()


def warm_up() -> None:
    """One step of each engine on a toy: what is loaded at first use is not counted for either."""

    def model(x, y):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Bernoulli(logits=x @ w).to_event(1), obs=y)

    x, y = torch.eye(2), torch.ones(2)
    SVI(model, AutoNormal(model), ClippedAdam({"lr": 0.01}), Trace_ELBO()).step(x, y)
    BLR(model, AutoNatural(model)).fit(x, y, max_steps=3)
    pyro.clear_param_store()
