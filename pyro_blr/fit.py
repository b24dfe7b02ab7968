# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a fit tells: how far it went, why it stopped, and how far it is from the optimum."""

import math
from dataclasses import dataclass, field
from typing import Any

from .html_table import html_table


def counted(number: int, thing: str) -> str:
    """``"1 step"``, ``"2 steps"``."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


@dataclass(eq=False)
class Fit:
    """The result of :meth:`~pyro_blr.BLR.fit`.

    :param int steps: the steps taken.
    :param bool converged: whether the gap was certified to be at most the tolerance.
    :param str reason: why it stopped.
    :param list losses: -ELBO at the entry of each step, in nats.
    :param int gradients: gradients of the log joint that were evaluated: at every draw of a sampled
        factor; a column of a Hessian counts as one, a Hessian-vector product as two.
    :param float residual: half the squared length of the last full step, in nats.
    :param float gap: the estimated distance to the local maximum of the ELBO, in nats; infinite
        where it could not be certified.
    :param list residuals: the residual that was known at the end of each step, infinite before the
        first.
    :param list gaps: the same of the gap.
    """

    steps: int = 0
    converged: bool = False
    reason: str = ""
    losses: list[float] = field(default_factory=list)
    residual: float = math.inf
    gap: float = math.inf
    gradients: int = 0
    blr: Any = None
    residuals: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    def remember(self) -> None:
        """Enter what is known of the distance to the optimum, at the end of a step."""
        self.residuals.append(self.residual)
        self.gaps.append(self.gap)

    def __repr__(self) -> str:
        state = "converged" if self.converged else "not converged"
        loss = f", loss {self.losses[-1]:.6f}" if self.losses else ""
        steps = counted(self.steps, "step")
        return f"<fit: {state} after {steps}{loss}, gap {self.gap:.1e}: {self.reason}>"

    def _repr_html_(self) -> str:
        rows = [
            ("steps", str(self.steps)),
            (
                "-ELBO",
                f"{self.losses[-1]:.6f} nats at the last step's entry" if self.losses else "-",
            ),
            ("gap", f"{self.gap:.1e} nats" if math.isfinite(self.gap) else "not known"),
            (
                "residual",
                f"{self.residual:.1e} nats" if math.isfinite(self.residual) else "not known",
            ),
            ("gradients", str(self.gradients)),
            ("reason", self.reason or "-"),
        ]
        title = "Fit: converged" if self.converged else "Fit: not converged"
        return html_table(title, (), rows)
