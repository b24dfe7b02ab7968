# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""irt_2pl of posteriordb: answers of 100 people to 20 items.

    PYRO_BLR_DATA=FOLDER python -m examples.item_response [--out FOLDER]

A person's ability, and an item's difficulty and discrimination (how sharply the answer depends on
ability), with unknown spreads. The model is Stan's. It has no discrete latents: each answer depends
on two Gaussian scalars and is integrated by quadrature. All unknowns have one Gaussian law on the
unconstrained space: with a law for each site, the spread of the discriminations falls to nearly
nothing, 4 nats below. posteriordb has no reference draws of it.
"""

from pathlib import Path
from typing import Any, NamedTuple

import pyro
import torch
from torch import Tensor

from benchmarks.stan_models.counts import irt_2pl as model
from benchmarks.stan_models.example import origin
from pyro_blr import BLR
from pyro_blr.guides import AutoNaturalMultivariateNormal

from . import data, show

NAME = "irt_2pl-irt_2pl"
DRAWS = 4000
#: Nats to the optimum at which the fit stops.
TOL = 0.1


class Found(NamedTuple):
    """Draws of q."""

    elbo: float
    ability: Tensor  # shape: (draws, people)
    difficulty: Tensor  # shape: (draws, items)
    discrimination: Tensor  # shape: (draws, items)


def fit(y: Tensor) -> Found:
    """The model of posteriordb. # shape of y: (items, people)"""
    pyro.clear_param_store()
    guide = AutoNaturalMultivariateNormal(model, init_loc_fn=origin)
    blr = BLR(model, guide)
    fitted = blr.fit(y, tol=TOL)
    show.report(f"{len(y)} items, {y.shape[1]} people", blr, fitted, y)
    drawn = guide.sample_posterior(DRAWS)
    sites = (drawn[name].reshape(DRAWS, -1) for name in ("theta", "b", "a"))
    return Found(-fitted.losses[-1], *sites)


def interval(drawn: Tensor) -> tuple[Any, Any]:
    """The mean, and how far down and up 95% of the draws reach. # shapes: (n,), (2, n)"""
    mean, (low, high) = drawn.mean(0), drawn.quantile(torch.tensor([0.025, 0.975]), 0)
    return mean.numpy(), torch.stack([mean - low, high - mean]).numpy()


def draw(y: Tensor, found: Found, out: Path) -> Path:
    """Abilities against scores, items, and the curves of three items."""
    figure, (left, middle, right) = show.picture(1, 3, figsize=(11, 3.9))
    style: dict[str, Any] = {"fmt": "o", "ms": 3, "elinewidth": 0.6, "alpha": 0.8}
    mean, bars = interval(found.ability)
    left.errorbar(y.sum(0).numpy(), mean, bars, color=show.COLOURS[0], **style)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel="right answers (of 20)", ylabel="ability", title="people, 95% of q")
    across, x_bars = interval(found.difficulty)
    mean, bars = interval(found.discrimination)
    middle.errorbar(across, mean, bars, x_bars, color=show.COLOURS[1], **style)
    middle.set(xlabel="difficulty", ylabel="discrimination", title="items, 95% of q")
    grid = torch.linspace(-4.0, 4.0, 200)
    order = across.argsort()
    for item, colour in zip(order[[1, len(order) // 2, -2]], show.COLOURS, strict=False):
        a, b = found.discrimination[:, item, None], found.difficulty[:, item, None]
        curve = torch.sigmoid(a * (grid - b))
        low, high = curve.quantile(torch.tensor([0.025, 0.975]), 0)
        right.fill_between(grid, low.numpy(), high.numpy(), color=colour, alpha=0.2, linewidth=0)
        right.plot(grid, curve.mean(0), color=colour, label=f"item {int(item) + 1}")
    right.set(xlabel="ability", ylabel="probability of a right answer", title="three items")
    right.set_ylim(-0.05, 1.2)
    right.legend(loc="upper center", ncols=3, fontsize=8)
    return show.save(figure, out, "item_response")


def main(out: Path, every: int = 1) -> Found:
    """Fit all people, or each of some, print and draw them and the items."""
    y = torch.tensor(data.posterior(NAME)["y"], dtype=torch.get_default_dtype())[:, ::every]
    found = fit(y)
    for what, drawn in (("easiest", found.difficulty), ("sharpest", -found.discrimination)):
        item = int(drawn.mean(0).argmin())
        b, a = float(found.difficulty[:, item].mean()), float(found.discrimination[:, item].mean())
        right = f"{int(y[item].sum())} of {y.shape[1]} right"
        print(f"{what}: item {item + 1} ({right}), difficulty {b:.2f}, discrimination {a:.2f}")
    draw(y, found, out)
    return found


if __name__ == "__main__":
    show.run(main)
