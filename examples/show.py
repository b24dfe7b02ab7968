# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What the examples have in common: the command line, what they print, how pictures look."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import pyro
import torch

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from benchmarks.rows import Skipped

OUT = Path(__file__).parent / "output"
#: The colours of classes, in their order; grey is for data.
COLOURS = ("#1f5a92", "#c0504d", "#4f8f4f", "#8064a2", "#d08a2e")
GREY = "0.55"
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "legend.frameon": False,
}


def run(main: Callable[[Path], Any]) -> None:
    """Run an example from the command line, in float64."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=OUT, help="the folder of the picture")
    torch.set_default_dtype(torch.float64)
    pyro.set_rng_seed(0)
    try:
        main(parser.parse_args().out)
    except Skipped as reason:
        print(f"skipped: {reason}")


def report(name: str, blr: Any, fit: Any, *args: Any) -> None:
    """Print the ELBO, its gap to the optimum, and how each factor was evaluated."""
    how = "converged" if fit.converged else fit.reason
    print(f"{name}: ELBO {-fit.losses[-1]:.4f} nats, gap {fit.gap:.1e}, {fit.steps} steps, {how}")
    print(blr.explain(*args))


def picture(rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes in the common style."""
    plt.rcParams.update(matplotlib.rcParamsDefault)
    with plt.rc_context(STYLE):
        return plt.subplots(rows, columns, **options)


def save(figure: Figure, out: Path, name: str) -> Path:
    """Save a figure as a PNG, and say where."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    print(f"picture: {path}")
    return path
