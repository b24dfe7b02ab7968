# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The flow of the Nile: a level that walks, seen with noise, with years missing.

    python -m examples.nile [--out FOLDER]

The levels of all years are one Gaussian block, whose posterior is exact given the noises. The
precisions of the noises are latents, or (``params="em"``) parameters that maximise the evidence.
A second model has a drop of the level in 1899, when the dam at Aswan was begun.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyro
import pyro.distributions as dist
import torch
from matplotlib.axes import Axes
from pyro import poutine
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from . import data, show

#: Flows are measured from here, in units of this: 1e10 cubic metres.
CENTRE, UNIT = 919.35, 100.0
DROP = 1899
#: First and last years of two gaps, whose flows no model sees.
GAPS = ((1879, 1888), (1931, 1945))
#: Draws of q for the picture.
DRAWS = 4000


class Found(NamedTuple):
    """What one model says, in 1e8 cubic metres."""

    elbo: float
    level: Tensor  # shape: (years,)
    deviation: Tensor  # shape: (years,)


def model(y: Tensor, seen: Tensor) -> None:
    """The level walks; the noises are unknown. # shapes: (T,)"""
    noise = pyro.sample("noise", dist.Gamma(2.0, 2.0))
    walk = pyro.sample("walk", dist.Gamma(2.0, 0.2))
    walk_and_flow(y, seen, noise.rsqrt(), walk.rsqrt())


def with_drop(y: Tensor, seen: Tensor, after: Tensor) -> None:
    """The same with a drop of the level. # shape of after, 1 from the drop on: (T,)"""
    noise = pyro.sample("noise", dist.Gamma(2.0, 2.0))
    walk = pyro.sample("walk", dist.Gamma(2.0, 0.2))
    drop = pyro.sample("drop", dist.Normal(0.0, 3.0))
    walk_and_flow(y, seen, noise.rsqrt(), walk.rsqrt(), drop * after)


def maximised(y: Tensor, seen: Tensor) -> None:
    """The noises are parameters, at the maximum of the evidence under ``params="em"``."""
    noise = pyro.param("noise_sd", torch.tensor(1.0), constraint=constraints.positive)
    walk = pyro.param("walk_sd", torch.tensor(0.5), constraint=constraints.positive)
    walk_and_flow(y, seen, noise, walk)


def walk_and_flow(y: Tensor, seen: Tensor, noise: Any, walk: Any, shift: Any = 0.0) -> None:
    """A random walk with standard deviation `walk`, seen with `noise` in some years."""
    T = len(y)
    with pyro.plate("years", T):
        level = pyro.sample("level", dist.Normal(0.0, 1.0).mask(False))  # its prior is the walk
    pyro.sample("first", dist.Normal(0.0, 10.0), obs=level[0])
    with pyro.plate("steps", T - 1):
        pyro.sample("step", dist.Normal(level[:-1], walk), obs=level[1:])
    with pyro.plate("flows", T), poutine.mask(mask=seen):
        pyro.sample("y", dist.Normal(level + shift, noise), obs=y)


def draw(years: Tensor, flow: Tensor, seen: Tensor, found: dict[str, Found], out: Path) -> Path:
    """The level of each model with its band, beside the flows."""
    figure, axes = show.picture(2, 1, figsize=(8.5, 6.2), sharex=True, sharey=True)
    for axis, colour, (name, one) in zip(axes, show.COLOURS, found.items(), strict=False):
        draw_level(axis, years, one, colour)
        axis.plot(years[seen], flow[seen], ".", color="0.25", label="flow")
        axis.plot(
            years[~seen], flow[~seen], "o", mfc="white", mec="0.45", ms=4, label="flow, hidden"
        )
        for first, last in GAPS:
            axis.axvspan(first - 0.5, last + 0.5, color="0.93", zorder=0)
        axis.axvline(DROP - 0.5, color="0.4", linewidth=0.8, linestyle=":")
        axis.set_title(f"{name}: ELBO {one.elbo:.1f} nats")
        axis.set_ylabel("flow at Aswan ($10^8$ m³ a year)")
        axis.legend(loc="upper right", ncols=4, fontsize=8)
    axes[0].set_ylim(400, 1500)
    axes[1].set_xlabel("year (grey: missing; dotted: before 1899)")
    return show.save(figure, out, "nile")


def draw_level(axis: Axes, years: Tensor, one: Found, colour: str) -> None:
    """A level and two standard deviations."""
    low, high = one.level - 2 * one.deviation, one.level + 2 * one.deviation
    axis.fill_between(years, low, high, color=colour, alpha=0.2, linewidth=0, label="level ± 2 sd")
    axis.plot(years, one.level, color=colour, label="level")


def largest_likelihood(y: Tensor) -> tuple[float, float]:
    """Variances of the flow's noise and of the walk at the maximum of the evidence of all years."""
    pyro.clear_param_store()
    everywhere = torch.ones(len(y), dtype=torch.bool)
    blr = BLR(maximised, AutoNatural(maximised), params="em")
    fitted = blr.fit(y, everywhere)
    show.report("noises by EM, all years", blr, fitted, y, everywhere)
    noise, walk = (UNIT**2 * float(pyro.param(n).detach()) ** 2 for n in ("noise_sd", "walk_sd"))
    return noise, walk


def fit(name: str, a_model: Callable[..., None], after: Tensor, *args: Tensor) -> Found:
    """The level of one model, with its drop, from draws of q."""
    pyro.clear_param_store()
    guide = AutoNatural(a_model)
    blr = BLR(a_model, guide)
    fitted = blr.fit(*args)
    show.report(name, blr, fitted, *args)
    noise, walk = (UNIT**2 / float(guide.marginal(n).mean) for n in ("noise", "walk"))
    print(f"variances: noise {noise:.0f}, walk {walk:.0f}\n")
    drawn = guide.sample_posterior(DRAWS)
    level = drawn["level"] + drawn.get("drop", torch.zeros(DRAWS)).unsqueeze(-1) * after
    level = CENTRE + UNIT * level
    return Found(-fitted.losses[-1], level.mean(0), level.std(0))


def main(out: Path) -> tuple[dict[str, Found], tuple[float, float]]:
    """Fit the models, print and draw what they say."""
    years, flow = data.nile()
    y, after = (flow - CENTRE) / UNIT, (years >= DROP).double()
    seen = torch.ones(len(y), dtype=torch.bool)
    for first, last in GAPS:
        seen &= (years < first) | (years > last)
    found = {
        "a level that walks": fit("a level that walks", model, after, y, seen),
        f"and drops in {DROP}": fit(f"and drops in {DROP}", with_drop, after, y, seen, after),
    }
    noise, walk = largest_likelihood(y)
    print(f"variances: noise {noise:.0f}, walk {walk:.0f}; Durbin and Koopman: 15099, 1469")
    draw(years, flow, seen, found, out)
    return found, (noise, walk)


if __name__ == "__main__":
    show.run(main)
