# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The picture: -ELBO against time for both engines, and the posteriors that they reached."""

from pathlib import Path
from typing import Any

import matplotlib
import pyro.distributions as dist
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from .models import Problem
from .svi import CLOSE, Result

COLOURS = {"SVI": "#c0504d", "BLR": "#1f5a92"}
#: The gaps that are shown, in nats; BLR's curves leave through the bottom.
LOWEST, HIGHEST = 1e-5, 1e5
#: Rows of a panel of posteriors: those furthest from zero in standard deviations.
MAX_ROWS = 12

Rows = list[tuple[str, Any, Any]]


def save(results: list[tuple[Problem, Result, Result]], path: Path) -> Path:
    """Draw and save the picture.

    :return: the path.
    """
    settings = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(settings):
        figure, axes = plt.subplots(
            2, len(results), figsize=(11.5, 7.2), height_ratios=(1, 1.35), layout="constrained"
        )
        for column, (problem, svi, blr) in enumerate(results):
            draw_gaps(axes[0, column], problem, svi, blr)
            draw_posteriors(axes[1, column], problem, svi, blr)
        axes[0, 0].set_ylabel("-ELBO above its optimum (nats)")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=100, pil_kwargs={"optimize": True})
        plt.close(figure)
    return path


def draw_gaps(axis: Axes, problem: Problem, svi: Result, blr: Result) -> None:
    """The gap of each engine to the optimum of its own family, against time, both on log scales."""
    for result, marker in ((svi, None), (blr, "o")):
        axis.loglog(
            result.seconds,
            [max(gap, LOWEST / 10) for gap in result.gaps],
            color=COLOURS[result.engine],
            marker=marker,
            markersize=3.5,
            label=f"{result.engine}, {result.steps} steps",
        )
    axis.axhline(CLOSE, color="0.6", linewidth=0.8, linestyle=":")
    axis.annotate(
        f"{CLOSE} nats", (1, CLOSE), xycoords=("axes fraction", "data"),
        ha="right", va="bottom", color="0.45", fontsize=8,
    )  # fmt: skip
    axis.set_ylim(LOWEST, HIGHEST)
    axis.set_xlabel("seconds")
    axis.set_title(problem.title, fontweight="bold")
    axis.legend(frameon=False, loc="upper right")


def draw_posteriors(axis: Axes, problem: Problem, svi: Result, blr: Result) -> None:
    """A ridge for each latent: BLR's posterior filled, SVI's as a line over it."""
    rows = elements(problem, svi, blr)
    low, high = shown_range([q for _, *pair in rows for q in pair])
    grid = torch.linspace(low, high, 500)
    for place, (_, of_svi, of_blr) in enumerate(rows):
        first, second = (density(q, grid) for q in (of_svi, of_blr))
        unit = 0.85 / max(first.max(), second.max())
        axis.fill_between(
            grid, -place, second * unit - place, color=COLOURS["BLR"], alpha=0.35, linewidth=0
        )
        axis.plot(grid, first * unit - place, color=COLOURS["SVI"], linewidth=1.1)
    axis.set_yticks([-i for i in range(len(rows))], [label for label, *_ in rows])
    axis.tick_params(axis="y", length=0)
    axis.spines["left"].set_visible(False)
    axis.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    axis.set_xlim(low, high)
    axis.set_xlabel({"eight schools": "points"}.get(problem.title, "standardised coefficient"))
    axis.set_title("posteriors: BLR filled, SVI as a line", fontsize=9, color="0.3")


def elements(problem: Problem, svi: Result, blr: Result) -> Rows:
    """The label and both posteriors of every element that is shown."""
    rows: Rows = []
    for site, labels in problem.labels.items():
        both = [scalars(result.marginals[site]) for result in (svi, blr)]
        rows += zip(labels, *both, strict=True)
    if len(rows) > MAX_ROWS:
        rows.sort(key=lambda r: -abs(float(r[2].icdf(half()))) / float(spread(r[2])))
        rows = rows[:MAX_ROWS]
    return rows


def scalars(marginal: Any) -> list[Any]:
    """The elements of a site's posterior, as distributions of one number with an ``icdf``."""
    while isinstance(marginal, dist.Independent):
        marginal = marginal.base_dist
    if isinstance(marginal, dist.MultivariateNormal):
        marginal = dist.Normal(marginal.loc, marginal.variance.sqrt())
    transforms = []
    if isinstance(marginal, torch.distributions.TransformedDistribution):
        marginal, transforms = marginal.base_dist, marginal.transforms
    pairs = zip(marginal.loc.reshape(-1), marginal.scale.reshape(-1), strict=True)
    bases = [dist.Normal(*pair, validate_args=False) for pair in pairs]
    return [dist.TransformedDistribution(base, transforms, validate_args=False) for base in bases]


def density(q: Any, grid: torch.Tensor) -> torch.Tensor:
    """The density on a grid; outside the support, where the variable is NaN, it is 0."""
    return q.log_prob(grid).exp().nan_to_num(nan=0.0)


def shown_range(posteriors: list[Any]) -> tuple[float, float]:
    """Wide enough for all but a thousandth of each."""
    low = min(float(q.icdf(half() / 500)) for q in posteriors)
    high = max(float(q.icdf(1 - half() / 500)) for q in posteriors)
    return low, high


def half() -> torch.Tensor:
    """One half, of the default dtype."""
    return torch.tensor(0.5)


def spread(q: Any) -> torch.Tensor:
    """Half the width of the middle 68 % of a posterior."""
    return (q.icdf(torch.tensor(0.84)) - q.icdf(torch.tensor(0.16))) / 2
