# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The running mean of Hessians of minibatches: the precision of the rule on noisy data.

With a Gaussian for q the rule moves its precision to ``(1 - rho) precision + rho H`` and its mean
by ``-rho precision^-1 g`` (arXiv 2107.04562, Section 1.3). A minibatch's own Hessian in its place
would bring the point to the optimum of the last batch.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class MeanHessian:
    """A running mean, of equal weights first and of weights rho where these are larger."""

    def __init__(self) -> None:
        self._mean: Tensor | None = None
        self._count = 0

    def add(self, hessian: Tensor, rho: float) -> Tensor:
        """Take a Hessian in; the mean."""
        if self._mean is None or self._mean.shape != hessian.shape:
            self._mean, self._count = hessian.detach().clone(), 0
        self._count += 1
        weight = max(rho, 1 / self._count)
        self._mean = self._mean + weight * (hessian.detach() - self._mean)
        return self._mean

    def state(self) -> dict[str, Any]:
        """The mean, to be saved."""
        mean = [] if self._mean is None else [self._mean.clone()]
        return {"mean": mean, "count": self._count}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take up what was saved."""
        self._mean = next(iter(state["mean"]), None)
        self._count = int(state["count"])
