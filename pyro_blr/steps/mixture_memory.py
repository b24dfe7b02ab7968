# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What the steps of a mixture remember: its points, and the sizes of its steps."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class MixtureMemory:
    """The memory of one engine.

    :param count: of points of each component; 0 before the first step.
    """

    def __init__(self, count: int = 0) -> None:
        self.count = count
        #: Of the points' noise; negative before the first step.
        self.seed = -1
        #: The size of each component's last step, or of that which it should try next.
        self.sizes: Tensor | None = None
        #: How many components were removed so far.
        self.removed = 0

    def renew(self, count: int, seed: int) -> None:
        """Other points."""
        self.count, self.seed = count, seed

    def tried_sizes(self, components: int, like: Tensor) -> Tensor:
        """What each component tries next: twice its last size. # shape: (K,)"""
        if self.sizes is None or len(self.sizes) != components:
            return torch.ones(components, dtype=like.dtype, device=like.device)
        return (2 * self.sizes).clamp(max=1.0).to(like)

    def keep_sizes(self, reached: Tensor, tried: Tensor) -> None:
        """Remember the sizes of a step; of a component without one, a smaller one than it tried."""
        self.sizes = torch.where(reached > 0, reached, 0.25 * tried).cpu()

    def without(self, kept: Tensor) -> None:
        """Forget components that were removed.

        :param kept: the others. # shape: (K,), bool
        """
        self.removed += int((~kept).sum())
        if self.sizes is not None and len(self.sizes) == len(kept):
            self.sizes = self.sizes[kept.cpu()]

    def state(self) -> dict[str, Any]:
        """All of it, to be saved."""
        return {
            "count": self.count,
            "seed": self.seed,
            "sizes": [] if self.sizes is None else self.sizes.tolist(),
            "removed": self.removed,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self.count, self.seed = int(state["count"]), int(state["seed"])
        sizes = [float(s) for s in state["sizes"]]
        self.sizes = torch.tensor(sizes, dtype=torch.float64) if sizes else None
        self.removed = int(state["removed"])
