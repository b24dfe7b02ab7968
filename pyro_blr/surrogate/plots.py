# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Surrogates to look at; matplotlib is asked for when something is drawn."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.latents import Latent, Latents, block_values
from ..families import Natural
from ..lifting import host
from ..lifting.blocks import Block
from ..plotting import pyplot
from ..random_state import from_seed

#: Colours that are told apart by the colour-blind (Okabe and Ito).
LOSS, SURROGATE, NOW, NEXT = "#222222", "#D55E00", "#7a8ca3", "#E69F00"

#: The most panels that are made by themselves, how many stand side by side, and points of a curve.
PANELS, WIDE, POINTS = 16, 4, 81

#: Draws from which the range of an element and its law are seen.
DRAWS = 2000


@dataclass(frozen=True)
class Curves:
    """What is drawn.

    :param latents: the latents, in order.
    :param now: the natural parameters of q.
    :param next: those that minimise the surrogate.
    :param held: every latent of q.
    :param layout: the block of each.
    :param both: surrogate and loss at values of one element of a latent.
    """

    latents: Sequence[Latent]
    now: Mapping[Block, Natural]
    next: Mapping[Block, Natural]
    held: Latents
    layout: Mapping[str, Block]
    both: Callable[[str, int, Tensor], tuple[Tensor, Tensor]]

    def elements(self) -> Iterator[tuple[Latent, int]]:
        """Every scalar element."""
        for latent in self.latents:
            yield from ((latent, e) for e in range(math.prod(latent.site.shape)))

    def drawn(self, latent: Latent, element: int) -> list[Tensor]:
        """Draws of an element's variable under q, and under the next q if there is one."""
        block = self.layout[latent.name]
        found = []
        for natural in (self.now[block], self.next[block]):
            if not host.truth(block.family.in_domain(natural).all()):
                continue
            with from_seed(0):
                drawn = block.family.sample(natural, (DRAWS,))
            own = block_values(block, self.held, drawn)[latent.site]
            found.append(own.reshape(DRAWS, -1)[:, element].double().cpu())
        return found


def plot(curves: Curves, axes: Any = None) -> Any:
    """One panel a scalar element; returns the figure.

    :raises ArgumentError: if matplotlib is missing, or there are no axes to draw in.
    """
    every = list(curves.elements())
    if axes is None:
        count = min(len(every), PANELS)
        wide = min(count, WIDE)
        high = math.ceil(count / wide)
        size = (max(3.6 * wide, 5.5), 2.9 * high)
        figure = pyplot().figure(figsize=size, layout="constrained")
        panels = [figure.add_subplot(high, wide, i + 1) for i in range(count)]
        if count < len(every):
            left = len(every) - count
            figure.suptitle(f"{left} more elements are not drawn: plot(sites, axes)", fontsize=9)
    else:
        panels = list(getattr(axes, "flat", axes if isinstance(axes, list | tuple) else [axes]))
        if not panels:
            raise errors.ArgumentError(
                "axes is empty. Mend: leave it out, or give a matplotlib Axes."
            )
        figure = panels[0].figure
    try:
        for panel, (latent, element) in zip(panels, every, strict=False):
            _panel(panel, curves, latent, element)
    except BaseException:
        if axes is None:
            pyplot().close(figure)  # which nobody else has to close
        raise
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def _panel(panel: Any, curves: Curves, latent: Latent, element: int) -> None:
    drawn = curves.drawn(latent, element)
    low = min(float(d.quantile(0.002)) for d in drawn)
    high = max(float(d.quantile(0.998)) for d in drawn)
    at = torch.linspace(low, high, POINTS, dtype=torch.float64, device="cpu")
    surrogate, loss = (t.cpu().numpy() for t in curves.both(latent.name, element, at))
    panel.plot(at.numpy(), loss, color=LOSS, linewidth=1.8, label="loss")
    panel.plot(at.numpy(), surrogate, color=SURROGATE, linewidth=1.8, ls="--", label="surrogate")
    below = panel.twinx()
    for values, colour, name in zip(drawn, (NOW, NEXT), ("q", "next q"), strict=False):
        heights, edges = torch.histogram(values, bins=40, range=(low, high), density=True)
        middle = (0.5 * (edges[1:] + edges[:-1])).numpy()
        below.fill_between(middle, heights.numpy(), color=colour, alpha=0.35, linewidth=0)
        panel.fill_between([], [], color=colour, alpha=0.35, linewidth=0, label=name)
    below.set_ylim(0, 4 * below.get_ylim()[1])
    below.set_yticks([])
    panel.set_xlabel(_name(latent, element))
    panel.set_ylabel("nats")
    for side in (panel, below):
        side.spines[["top", "right"]].set_visible(False)
    panel.set_zorder(below.get_zorder() + 1)
    panel.patch.set_visible(False)


def _name(latent: Latent, element: int) -> str:
    """The name of an element's variable."""
    shape = latent.site.shape
    places = []
    for size in reversed(shape):
        places.append(element % size)
        element //= size
    index = f"[{', '.join(map(str, reversed(places)))}]" if shape else ""
    unconstrained = " (unconstrained)" if latent.transform is not None else ""
    return f"{latent.name}{index}{unconstrained}"
