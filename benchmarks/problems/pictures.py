# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Accuracy against time, one picture a problem."""

import math
from pathlib import Path
from typing import Any

from ..peers.registry import DEFAULT, FULL, MEAN_FIELD, PEERS, VMP
from .table import best_of, bound_of, column_of

COLOURS = {
    "blr": "#1f5fa8",
    "pyro_svi": "#d1701f",
    "numpyro_svi": "#3a8f3a",
    "blackjax_vi": "#8a4fa3",
    "pymc_advi": "#b0a020",
    "bayespy_vmp": "#777777",
    "sklearn_topics": "#a03030",
    "gpytorch_ngd": "#c2408a",
    "gpjax_natural": "#30a0a0",
    "ivon": "#805030",
    "laplace_torch": "#404040",
}
TITLES = {MEAN_FIELD: "mean-field", FULL: "full", VMP: "message passing"}
#: Gaps below this are drawn at it.
FLOOR, CEILING = 1e-3, 1e4


def draw(content: dict[str, Any], path: Path) -> None:
    """Write the picture: gap to the best of the family by seconds, without compilation."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    records = content["records"]
    well = [record for record in records.values() if "error" not in record]
    families = [f for f in TITLES if any(r["family"] == f for r in well)] or [DEFAULT]
    figure, axes = plt.subplots(
        1, len(families), figsize=(4.4 * len(families), 3.4), layout="constrained", squeeze=False
    )
    for axis, family in zip(axes[0], families, strict=True):
        best = best_of(records, family)
        for record in well:
            if record["family"] in ((family, DEFAULT) if family == VMP else (family,)):
                _line(axis, record, best, column_of(family))
        axis.axhline(0.1, color="0.8", linewidth=0.8, zorder=0)
        axis.set(xscale="log", yscale="log", ylim=(FLOOR / 1.5, CEILING), xlabel="seconds")
        if _holds_power_of_ten(*axis.get_xlim()):
            axis.tick_params(axis="x", which="minor", labelbottom=False)  # they would overlap
        axis.set_title(TITLES.get(family, family), fontsize=10)
        axis.legend(fontsize=7, frameon=False)
    axes[0][0].set_ylabel("nats below the best")
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def _holds_power_of_ten(low: float, high: float) -> bool:
    return math.floor(math.log10(high)) >= math.ceil(math.log10(low))


def _line(axis: Any, record: Any, best: float, column: int) -> None:
    """The best that any run had reached by then."""
    looks = sorted(
        (look[0], bound_of(look, column)) for run in record["runs"] for look in run["looks"]
    )
    times, gaps, reached = [], [], math.inf
    for seconds, elbo in looks:
        reached = min(reached, best - elbo)
        times.append(max(seconds, 1e-4))
        gaps.append(min(max(reached, FLOOR), CEILING))
    peer = PEERS[record["peer"]]
    style = "o-" if peer.name == "blr" else ".-"
    colour = COLOURS.get(peer.name, "black")
    axis.plot(times, gaps, style, color=colour, markersize=4, linewidth=1.2, label=peer.title)
