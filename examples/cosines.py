# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How far the natural gradient of the ELBO is from that of the evidence, at parameters at random.

    python -m examples.cosines [--out FOLDER]

The model of Ay, van Oostrum and Datar (arXiv 2307.11249): a hidden x with two visible children y
and z, all binary. Parameters come from Jeffreys' prior, by random walks and, independently, by
weighted draws; targets come from Jeffreys' prior of all joint laws. Cosines are of the velocities
of the visible law, in its Fisher metric. Where x is independent of y and z the model is
cylindrical, and they are 1.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import torch
from matplotlib.axes import Axes
from torch import Tensor
from torch.distributions import Dirichlet

from pyro_blr.geometry import Cosines, FiniteModel, ParameterDraws, jeffreys_walk, jeffreys_weighted

from . import show

DIMS, HIDDEN = ("x", "y", "z"), "x"
#: Cosines of 1 may be above it by rounding.
BINS = torch.linspace(-1.0, 1.0 + 1e-9, 41)
#: What the cosines are between, in words.
WORDS = {"elbo": "ELBO, joint target", "recognition": "ELBO, perfect recognition"}


class Study(NamedTuple):
    """What one sampler found.

    :param means: of each cosine, with its standard error.
    """

    draws: ParameterDraws
    cosines: Cosines
    defect: Tensor
    least_share: Tensor
    means: dict[str, tuple[float, float]]


def given(p: Tensor) -> Tensor:
    """The probabilities of two values, the first one p. # shape: (*batch, 2)"""
    return torch.stack([p, 1.0 - p], -1)


def naive_bayes(theta: Tensor) -> Tensor:
    """x -> y and x -> z. # shapes: (5,) -> (2, 2, 2)"""
    x, y, z = given(theta[0]), given(theta[1:3]), given(theta[3:5])
    return x[:, None, None] * y[:, :, None] * z[:, None, :]


def independent(theta: Tensor) -> Tensor:
    """The cylindrical version. # shapes: (3,) -> (2, 2, 2)"""
    x, y, z = given(theta)
    return x[:, None, None] * y[:, None] * z


def study(model: FiniteModel, draws: ParameterDraws) -> Study:
    """The cosines at each draw, for a target of its own."""
    shape = draws.weight.shape
    targets = Dirichlet(torch.full((8,), 0.5)).sample(shape).reshape(*shape, 2, 2, 2)
    here = model.at(draws.theta)
    cosines = here.fields(targets).cosines
    means = {name: draws.mean(own) for name, own in cosines._asdict().items()}
    found = here.cylindricity()
    return Study(draws, cosines, found.defect, found.least_share, means)


def samplers(count: int, model: FiniteModel, size: int) -> dict[str, Callable[[], ParameterDraws]]:
    """The two samplers, of about so many draws each."""
    box = torch.zeros(size), torch.ones(size)
    chains = max(20, count // 40)
    return {
        "random walks": lambda: jeffreys_walk(model, *box, chains, draws=count // chains),
        "weighted draws": lambda: jeffreys_weighted(model, *box, draws=count),
    }


def draw(found: dict[str, Study], out: Path) -> Path:
    """The laws of both cosines by both samplers; the second by what the data know."""
    figure, axes = show.picture(1, 3, figsize=(11.5, 3.6))
    for axis, (name, words) in zip(axes, WORDS.items(), strict=False):
        histograms(axis, name, found)
        axis.set_title(f"{words}, and evidence")
        axis.set_xlabel("cosine in the visible Fisher metric")
    axes[0].set_ylabel("share of the draws")
    by_share(axes[2], found["random walks"])
    return show.save(figure, out, "cosines")


def histograms(axis: Axes, name: str, found: dict[str, Study]) -> None:
    """Bars of the one sampler, and the outline of the other."""
    for (sampler, own), colour, kind in zip(
        found.items(), show.COLOURS, ("stepfilled", "step"), strict=False
    ):
        mean, error = own.means[name]
        axis.hist(
            getattr(own.cosines, name).flatten(),
            bins=BINS.tolist(),
            weights=own.draws.weight.flatten(),
            histtype=kind,
            alpha=0.45 if kind == "stepfilled" else 1.0,
            color=colour,
            linewidth=1.2,
            label=f"{sampler}: {mean:.4f} ± {error:.4f}",
        )
        axis.legend(loc="center left", title="mean", fontsize=7.5, frameon=False)


def by_share(axis: Axes, own: Study) -> None:
    """The mean and the tails of the cosine under perfect recognition, by the least share."""
    share, cosine = own.least_share.flatten(), own.cosines.recognition.flatten()
    edges = torch.linspace(0.0, 1.0, 11)
    middle = 0.5 * (edges[1:] + edges[:-1])
    inside = [cosine[(share >= a) & (share <= b)] for a, b in pairwise(edges)]
    low, high = (torch.stack([c.quantile(q) for c in inside]) for q in (0.05, 0.95))
    axis.fill_between(middle, low, high, color=show.COLOURS[0], alpha=0.2, label="5 to 95 %")
    axis.plot(middle, torch.stack([c.mean() for c in inside]), color=show.COLOURS[0], label="mean")
    axis.set_title("perfect recognition, and evidence")
    axis.set_xlabel("least share of the information that data hold")
    axis.set_ylabel("cosine")
    axis.set_ylim(0.0, 1.02)
    axis.legend(loc="lower right", frameon=False)


def main(out: Path, count: int = 100_000) -> dict[str, Study]:
    """Draw, compare the samplers, print and draw the cosines."""
    model = FiniteModel(naive_bayes, DIMS, HIDDEN)
    found = {name: study(model, made()) for name, made in samplers(count, model, 5).items()}
    print("naive Bayes with a hidden x: mean cosines with the evidence's gradient")
    for name, words in WORDS.items():
        for sampler, own in found.items():
            mean, error = own.means[name]
            print(f"  {words:26s} {sampler:15s} {mean:.4f} +- {error:.4f}")
    for sampler, own in found.items():
        worth, how = own.draws.effective, own.draws.how
        print(f"  {sampler}: {own.defect.numel()} draws, weights worth {worth:.0f}; {how}")
    control = FiniteModel(independent, DIMS, HIDDEN)
    own = study(control, samplers(count // 20, control, 3)["weighted draws"]())
    least = float(torch.stack(own.cosines).nan_to_num(1.0).min())
    print(
        f"x independent of y and z: least cosine {least:.12f}, defect {float(own.defect.max()):.0e}"
    )
    draw(found, out)
    return found


if __name__ == "__main__":
    show.run(main)
