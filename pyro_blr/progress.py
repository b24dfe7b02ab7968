# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The progress bar of a fit: steps, -ELBO and the gap in nats."""

import math
from typing import Any

from tqdm.auto import tqdm

from .fit import Fit, counted


class Progress:
    """A bar on the terminal, or a widget in a notebook that has ``ipywidgets``.

    :param int max_steps: the most steps that there will be.
    :param bool shown: whether there is a bar at all.
    """

    def __init__(self, max_steps: int, shown: bool) -> None:
        self._bar = tqdm(total=max_steps, disable=not shown, desc="BLR", unit=" steps", leave=True)
        self._loss = math.nan
        self._skipped = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.close()

    def enter(self, fit: Fit, loss: float) -> None:
        """Count a step; one whose loss is NaN was skipped."""
        fit.losses.append(loss)
        fit.steps += 1
        if math.isnan(loss):
            self._skipped += 1
        else:
            self._loss = loss

    def show(self, fit: Fit) -> None:
        """Show how far the fit is: the last -ELBO that is a number, and the gap if it is known."""
        if self._bar.disable:
            return
        skipped = f", {counted(self._skipped, 'step')} skipped" if self._skipped else ""
        text = f"-ELBO {self._loss:.4f}, {_distance(fit)}{skipped}"
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update()

    def end(self, fit: Fit) -> None:
        """A fit that ended before its last step is complete, and its bar is full."""
        self._bar.total = fit.steps
        widget = getattr(self._bar, "container", None)
        if widget is not None:  # a bar of a notebook holds the total a second time
            widget.children[1].max = fit.steps


def _distance(fit: Fit) -> str:
    """The gap; before it is known, the length of the last step."""
    if math.isfinite(fit.gap):
        return f"gap {fit.gap:.1e} nats"
    residual = f" (residual {fit.residual:.1e} nats)" if math.isfinite(fit.residual) else ""
    return f"gap not known yet{residual}"
