# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Influence to look at; matplotlib is asked for when something is drawn."""

from typing import Any

import torch
from torch import Tensor

from ..plotting import pyplot
from .data import Data

#: The colours of data and of those that are labelled.
PLAIN, LABELLED = "#7a8ca3", "#c8442d"

#: A label's size: a line in points, and its width and height as shares of the picture's.
LINE, WIDE, HIGH = 10, 0.035, 0.045


def plot(data: Data, values: Tensor, top: Tensor, label: str, ax: Any = None) -> Any:
    """Values against positions, some labelled.

    :param values: # shape: that of the data's plates
    :param top: flat positions of what is labelled.
    :param label: of the vertical axis.
    :raises ArgumentError: if matplotlib is missing.
    """
    ax = pyplot().subplots(figsize=(8, 4), layout="constrained")[1] if ax is None else ax
    flat = values.detach().reshape(-1).double().cpu()
    places = torch.arange(data.count)
    names = " x ".join(data.plates.values())
    ax.vlines(places.numpy(), 0, flat.numpy(), color=PLAIN, linewidth=0.8, zorder=1)
    ax.axhline(0, color="#444444", linewidth=0.8)
    top = top.cpu()
    chosen = top[~flat[top].isnan()]
    ax.scatter(chosen.numpy(), flat[chosen].numpy(), color=LABELLED, s=16, zorder=2)
    for n, level in zip(chosen.tolist(), _levels(chosen, flat), strict=True):
        place = data.position(n)
        text = str(place[0]) if len(place) == 1 else ", ".join(map(str, place))
        up = bool(flat[n] >= 0)
        away = LINE * level + 4
        ax.annotate(
            *(text, (n, float(flat[n]))),
            xytext=(0, away if up else -away),
            textcoords="offset points",
            ha="center",
            va="bottom" if up else "top",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "color": LABELLED, "linewidth": 0.5} if level else None,
        )
    ax.margins(x=0.01, y=0.12)
    ax.set_xlabel(f"datum ({names})" if len(data.shape) == 1 else f"datum, flat ({names})")
    ax.set_ylabel(label)
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def _levels(chosen: Tensor, flat: Tensor) -> list[int]:
    """How many lines each label moves away, so that no two stand on one another."""
    width = WIDE * len(flat)
    height = HIGH * float(flat.max() - flat.min())
    placed: list[tuple[int, float, bool]] = []
    levels = []
    for n in chosen.tolist():
        value, level = float(flat[n]), 0
        up = value >= 0
        while any(
            up == side
            and abs(n - x) < width
            and abs(value + (level if up else -level) * height - y) < height
            for x, y, side in placed
        ):
            level += 1
        placed.append((n, value + (level if up else -level) * height, up))
        levels.append(level)
    return levels
