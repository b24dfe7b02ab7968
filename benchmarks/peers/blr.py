# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""This package: BLR with nothing set, in a Gaussian family to compare with, and in its default."""

import math
from typing import Any

import torch

from pyro_blr import BLR
from pyro_blr.draws.fitted import fitted
from pyro_blr.draws.guides import guide_draws
from pyro_blr.guides import AutoNatural, AutoNaturalMultivariateNormal, AutoNaturalNormal

from ..discrete import natural_of
from ..memory import begin, risen
from ..problems.catalogue import load
from ..problems.problem import Problem
from ..timing import fresh
from .stepping import Clock

GUIDES = {
    "default": AutoNatural,
    "mean-field": AutoNaturalNormal,
    "full": AutoNaturalMultivariateNormal,
}
#: Draws of a q that is no Gaussian over the unconstrained space.
DRAWS = 4096
#: A fit is looked at where its own loss came within so many nats of its last one, and at steps of
#: this ratio; one that takes more seconds than LONG is looked at where it matters alone.
NEAR, RATIO = (10.0, 1.0, 0.1, 0.01), 1.6
LONG, NEAR_OF_LONG = 20.0, (0.1,)
MOST_STEPS = 1000


def run(given: dict[str, Any]) -> dict[str, Any]:
    """A fit until it has converged, then fits of fewer steps, each from the start: the looks.

    The first fit of the process is the time with what is loaded and folded the first time.
    """
    import pyro

    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(given["threads"])
    pyro.enable_validation(False)
    problem = load(given["problem"], given["data"], given["tiny"])
    family, seed = given["family"], given["seed"]
    before = begin()
    first = _timed(problem, family, seed, MOST_STEPS)
    cold, (_, _, fit) = first
    memory = risen(before)
    if given.get("once"):
        seen = [_look(problem, family, first)]
    else:
        steps = looks(fit.losses, fit.steps, cold > LONG)
        seen = [_look(problem, family, _timed(problem, family, seed, n)) for n in steps]
    return {
        "memory": memory,
        "compile": max(0.0, cold - seen[-1]["seconds"]),
        "runs": [
            {
                "setting": "nothing set",
                "looks": seen,
                "converged": fit.converged,
                "gap": fit.gap,
                "steps": fit.steps,
                "reason": fit.reason,
            }
        ],
    }


def looks(losses: list[float], steps: int, long: bool) -> list[int]:
    """The steps after which to look, the last one among them.

    :param list losses: at the entry of each step.
    """
    found = {steps}
    for nats in NEAR_OF_LONG if long else NEAR:
        found.add(next((i for i, x in enumerate(losses) if x <= losses[-1] + nats), steps))
    if not long:
        found |= {int(RATIO**power) for power in range(1, 40) if RATIO**power < steps}
    return sorted(found - {0})


def _timed(problem: Problem, family: str, seed: int, steps: int) -> tuple[float, Any]:
    """Seconds of making the guide and taking so many steps from the start, or to convergence."""
    fresh(seed)
    clock = Clock()
    with clock:
        start = {} if problem.init_loc_fn is None else {"init_loc_fn": problem.init_loc_fn}
        guide = GUIDES[family](problem.model, **({} if family == "default" else start))
        if family == "default" and problem.start:
            guide.set_natural({name: natural_of(law) for name, law in problem.start.items()})
        blr = BLR(problem.model, guide, on_sampled="ignore")
        fit = blr.fit(*problem.args, max_steps=steps)
    return clock.seconds, (guide, blr, fit)


def _look(problem: Problem, family: str, timed: tuple[float, Any]) -> dict[str, Any]:
    """What is told of a fit."""
    seconds, (guide, blr, fit) = timed
    look = {"seconds": seconds, "gradients": fit.gradients, "steps": fit.steps}
    if family == "full":
        loc, scale = guide.joint()
        sites = [(n, math.prod(latent.site.shape)) for n, latent in guide.latents.items()]
        return {**look, "sites": sites, "loc": loc.numpy(), "scale": scale.numpy()}
    if family == "mean-field":
        return {**look, **diagonal(guide)}
    # Its own bound has no noise where nothing is sampled.
    own = -blr.evaluate_loss(*problem.args)
    count = min(DRAWS, problem.draws)
    drawn = guide_draws(fitted(blr, "benchmarks"), problem.args, {}, count, "benchmarks")
    values = {name: value.numpy() for name, value in drawn.values.items()}
    return {**look, "own": own, "values": values, "log_q": sum(drawn.log_q.values()).numpy()}


def diagonal(guide: Any) -> dict[str, Any]:
    """Mean and scale over the sites of a guide whose elements are independent Gaussians."""
    sites, locs, scales = [], [], []
    for block, (first, second) in guide.naturals().items():
        precision = -2 * second.detach().reshape(-1)
        sites.append((block.sites[0].name, len(precision)))
        locs.append(first.detach().reshape(-1) / precision)
        scales.append(precision.rsqrt())
    return {"sites": sites, "loc": torch.cat(locs).numpy(), "scale": torch.cat(scales).numpy()}
