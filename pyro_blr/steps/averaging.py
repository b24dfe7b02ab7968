# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The average of the iterates of noisy steps, over the last half of them at least.

Iterates on noisy messages hover about the optimum; with sizes that decrease more slowly than 1/t
their average converges as fast as any method that sees the same noise (Polyak & Juditsky 1992).
The first half is where they came from. Two averages suffice: at steps 2^k, ..., 2^(k+1) - 1 the one
that began at step 2^(k-1) holds the last half to the last three quarters, whatever the step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from ..families import Natural
from .cone import inside
from .objective import Block, Naturals

Means = dict[str, Natural]

#: Iterates that are worth an average: a step of size rho is forgotten after 1/rho more, and sizes
#: are near 1/16 after so many steps whose noise dominates.
FEWEST = 32


class Average:
    """Averages of natural parameters by block name.

    The domain of natural parameters is convex, so that an average is inside it.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the iterates: what the steps were taken on has changed."""
        #: The steps, those in each average, and the averages: the older one first.
        self.steps = 0
        self._counts: list[int] = [0, 0]
        self._means: list[Means] = [{}, {}]

    def add(self, naturals: Naturals) -> None:
        """Take an iterate into the averages."""
        shapes = {b.name: [t.shape for t in n] for b, n in naturals.items()}
        if shapes != {name: [t.shape for t in n] for name, n in self._means[1].items()}:
            self.reset()
        self.steps += 1
        if self.steps & (self.steps - 1) == 0:  # a power of 2
            self._counts = [self._counts[1], 0]
            self._means = [self._means[1], {}]
        for i, means in enumerate(self._means):
            if i == 0 and not means:
                continue  # at the first step there is one average only
            self._counts[i] += 1
            for block, natural in naturals.items():
                old = means.get(block.name, natural)
                pairs = zip(old, natural, strict=True)
                means[block.name] = tuple(a + (n - a) / self._counts[i] for a, n in pairs)

    def of(self, naturals: Naturals) -> dict[Block, Natural]:
        """The averages in the place of natural parameters; those without an average as they are."""
        means = self._means[0] or self._means[1]
        result = dict(naturals)
        for block, natural in naturals.items():
            mean = means.get(block.name, natural)
            alike = [t.shape for t in mean] == [t.shape for t in natural]
            if alike and inside(block.family, mean):
                result[block] = mean
        return result

    def state(self) -> dict[str, Any]:
        """The averages and their counts, to be saved."""
        means = [{name: list(n) for name, n in own.items()} for own in self._means]
        return {"steps": self.steps, "counts": list(self._counts), "means": means}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self.steps, self._counts = int(state["steps"]), list(state["counts"])
        means: Sequence[Mapping[str, Any]] = state["means"]
        self._means = [{name: tuple(n) for name, n in own.items()} for own in means]
