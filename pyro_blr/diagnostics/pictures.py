# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Pictures of a fit's way to its optimum, of weights, of sites and of ranks, by matplotlib."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..fit import Fit
from ..plotting import pyplot

BLUE, RED, GREY = "#1f5a92", "#c0504d", "0.55"
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
}
#: Nats below which a picture shows no difference: rounding.
FLOOR = 1e-14
#: Elements of all sites up to which each has its own line in a picture.
MOST_ELEMENTS = 40
#: Histograms of ranks in one picture, and their bins.
MOST_HISTOGRAMS, BINS = 12, 10


def plot_history(fit: Any) -> Any:
    """The loss above its last value, the residual and the gap over the steps of a fit.

    Example::

        diagnostics.plot_history(blr.fit(X, y)).savefig("history.png")

    :param fit: what ``BLR.fit`` returned.
    :return: a matplotlib figure.
    :raises ArgumentError: if it is something else, or matplotlib is missing.
    """
    if not isinstance(fit, Fit) or not fit.steps:
        raise errors.ArgumentError(
            "plot_history needs what blr.fit(...) returned, after a step, not "
            f"{type(fit).__name__}. Mend: plot_history(blr.fit(*args))."
        )
    plt, style = _matplotlib()
    with style:
        figure, axes = plt.subplots(figsize=(5.5, 3.6))
        _history(axes, fit)
        plt.close(figure)
    return figure


def plot_report(found: Any) -> Any:
    """Weights, sites, and the way to the optimum where the fit has it."""
    plt, style = _matplotlib()
    has_way = found.fit is not None and found.fit.steps > 0
    with style:
        figure, axes = plt.subplots(2, 2, figsize=(9.5, 7.2))
        _weights(axes[0, 0], found)
        _khats(axes[0, 1], found)
        _moments(axes[1, 0], found.sites, "posterior by importance")
        if has_way:
            _history(axes[1, 1], found.fit)
        else:
            axes[1, 1].set_axis_off()
        figure.suptitle(_wrapped(found.verdict), fontsize=10)
        plt.close(figure)
    return figure


def plot_comparison(found: Any) -> Any:
    """Means and sds of q against NUTS's."""
    plt, style = _matplotlib()
    with style:
        figure, axes = plt.subplots(figsize=(6.0, 4.2))
        _moments(axes, found.sites, "NUTS")
        figure.suptitle(_wrapped(found.verdict, 75), fontsize=10)
        plt.close(figure)
    return figure


def plot_calibration(found: Any) -> Any:
    """A histogram of the ranks of each site's worst element."""
    plt, style = _matplotlib()
    names = list(found.numbers)[:MOST_HISTOGRAMS]
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    low, high = _band(found.num, BINS)
    with style:
        figure, axes = plt.subplots(
            rows, columns, figsize=(3.4 * columns + 0.6, 2.6 * rows + 0.8), squeeze=False
        )
        for name, one in zip(names, axes.flat, strict=False):
            index, numbers = found.worst(name)
            one.axhspan(low, high, color="0.9", label="95 % if calibrated")
            one.axhline(found.num / BINS, color=GREY, linewidth=1)
            one.hist(numbers.tolist(), bins=BINS, range=(0, 1), color=BLUE, rwidth=0.92)
            where = f"[{', '.join(map(str, index))}]" if index else ""
            one.set_title(f"{name}{where}, p = {found.p_values[name]:.2g}", fontsize=9)
            one.set_xlabel("rank of the true value among draws of q")
            one.set_ylabel("simulations")
            one.set_ylim(0, 1.25 * max(high, one.get_ylim()[1]))
        for one in list(axes.flat)[len(names) :]:
            one.set_axis_off()
        axes.flat[0].legend(fontsize=8)
        figure.suptitle(_wrapped(found.verdict, 38 * columns), fontsize=10)
        plt.close(figure)
    return figure


# The parts


def _history(axes: Any, fit: Any) -> None:
    steps = range(1, fit.steps + 1)
    known = [loss for loss in fit.losses if not math.isnan(loss)]
    least = min(known) if known else 0.0
    rises = [loss - least for loss in fit.losses]
    for label, values, colour, mark in (
        ("loss above its least", rises, GREY, "o"),
        ("residual", fit.residuals, BLUE, "s"),
        ("gap", fit.gaps, RED, "D"),
    ):
        shown = [
            (s, max(v, FLOOR)) for s, v in zip(steps, values, strict=False) if 0 < v < math.inf
        ]
        if shown:
            size = 4 if len(shown) < 60 else 0
            axes.plot(
                *zip(*shown, strict=True), mark + "-", color=colour, label=label, markersize=size
            )
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("nats")
    axes.set_title("on the way to the optimum of q's family", fontsize=9)
    if axes.lines:
        axes.legend(fontsize=8)
    if fit.steps <= 10:
        axes.set_xticks(list(steps))


def _weights(axes: Any, found: Any) -> None:
    """The weights in order, against what even ones would be."""
    smoothed = found.weighed.psis
    relative = (smoothed.weights * len(smoothed.weights)).sort(descending=True).values
    share = (torch.arange(len(relative), device="cpu") + 0.5) / len(relative)
    axes.loglog(share.tolist(), relative.clamp(min=1e-6).tolist(), color=BLUE)
    axes.axhline(1.0, color=GREY, linewidth=1)
    if float(relative[0]) < 1.5:
        axes.set_ylim(0.1, 10.0)
    axes.set_xlabel("share of draws with larger weight")
    axes.set_ylabel("weight / mean weight")
    khat = "no tail" if found.khat == -math.inf else f"k-hat {found.khat:.2f}"
    size = f"{found.effective_draws:.0f} of {len(relative)} draws"
    axes.set_title(f"weights p / q: {khat}, worth {size}", fontsize=9)


def _khats(axes: Any, found: Any) -> None:
    """The k-hat of the guide and of each site given the others."""
    limit = found.weighed.psis.limit
    bars = [("whole guide", found.khat, True)]
    bars += [(", ".join(k.sites), k.khat, k.divergence > 1e-3) for k in found.site_khats]
    bars = bars[: MOST_ELEMENTS + 1]
    axes.set_ylim(-0.6, max(len(bars), 4) - 0.4)
    for place, (_, khat, matters) in enumerate(bars):
        colour = RED if khat > limit and matters else BLUE
        axes.barh(place, min(max(khat, 0.0), 1.5), color=colour, height=0.6)
        if not matters or khat <= 0:
            axes.text(0.02, place, "even" if not matters else "no tail", va="center", fontsize=8)
    axes.axvline(limit, color=GREY, linestyle="--", linewidth=1, label=f"limit {limit:.2f}")
    axes.set_yticks(range(len(bars)), [_short(name) for name, _, _ in bars])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.5)
    axes.set_xlabel("Pareto k-hat; of a site given the others")
    axes.set_title("where the tail is heavy", fontsize=9)
    axes.legend(fontsize=8, loc="lower right")


def _moments(axes: Any, sites: Sequence[Any], reference: str) -> None:
    """q's mean and two sds, and those of the reference, in sds of q."""
    labels: list[str] = []
    for site in sites:
        found = site.moments
        shifts, ratios = found.shift.reshape(-1), found.widening.exp().reshape(-1)
        for element in _chosen(found.widening, found.shift, MOST_ELEMENTS // max(len(sites), 1)):
            place = len(labels)
            index = torch.unravel_index(torch.tensor(element, device="cpu"), found.shift.shape)
            where = f"[{', '.join(str(int(i)) for i in index)}]" if found.shift.dim() else ""
            labels.append(f"{site.name}{where}")
            axes.plot([-2, 2], [place - 0.15] * 2, color=GREY, linewidth=4, solid_capstyle="butt")
            axes.plot(0, place - 0.15, "|", color="black", markersize=7)
            centre, spread = float(shifts[element]), 2 * float(ratios[element])
            axes.plot(
                [centre - spread, centre + spread],
                [place + 0.15] * 2,
                color=BLUE,
                linewidth=4,
                solid_capstyle="butt",
            )
            axes.plot(centre, place + 0.15, "|", color="black", markersize=7)
    axes.set_yticks(range(len(labels)), [_short(label) for label in labels])
    axes.set_ylim(max(len(labels), 4) - 0.4, -0.6)
    axes.set_xlabel("mean and two sds, in sds of q")
    axes.set_title(f"grey: q; blue: {reference}", fontsize=9)


def _chosen(widening: Tensor, shift: Tensor, most: int) -> list[int]:
    """The elements of a site that are shown: the worst ones, in their order."""
    wrong = (widening.abs() + shift.abs()).reshape(-1)
    known = [i for i in range(len(wrong)) if not math.isnan(float(wrong[i]))]
    worst = sorted(known, key=lambda i: -float(wrong[i]))[: max(most, 1)]
    return sorted(worst)


def _band(num: int, bins: int) -> tuple[float, float]:
    """Counts of a bin between which 95 % of uniform ones are, about."""
    mean = num / bins
    spread = 1.96 * math.sqrt(mean * (1 - 1 / bins))
    return max(mean - spread, 0.0), mean + spread


def _short(text: str, most: int = 22) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _wrapped(text: str, width: int = 110) -> str:
    """Text in lines."""
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return "\n".join(lines)


def _matplotlib() -> tuple[Any, Any]:
    """Matplotlib's pyplot, and the style of these pictures as a context."""
    plt = pyplot()
    return plt, plt.rc_context(STYLE)
