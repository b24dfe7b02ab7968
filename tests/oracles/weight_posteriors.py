# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""IVON and VOGN as the papers have them, number by number, in NumPy: no code of the package."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any


@dataclass
class Reference:
    """A diagonal Gaussian over a vector of weights, and its steps from given noise.

    :param hessian: "price", "squared_gradient" or "mean_square" (VOGN's).
    """

    mean: Array
    lr: float
    ess: float
    h0: float
    b1: float
    b2: float
    decay: float
    hessian: str = "price"
    batch_size: float = 1.0
    clip: float = math.inf
    damping: float = 0.0

    def __post_init__(self) -> None:
        self.h = np.full_like(self.mean, self.h0)
        self.g = np.zeros_like(self.mean)
        self.t = 0

    @property
    def sd(self) -> Array:
        """Of a draw."""
        return 1.0 / np.sqrt(self.ess * (self.h + self.decay))

    def step(
        self,
        gradient: Callable[[Array], Any] | list[Callable[[Array], Any]],
        noises: list[Array],
        weights: list[float] | None = None,
    ) -> None:
        """One step at the mean of several draws.

        :param gradient: of the mean loss; for "mean_square" of each datum.  # shape: (M, D)
            A list has one for each draw.
        :param weights: of the draws in the means.
        """
        gradients, estimates, sizes = [], [], []
        functions = gradient if isinstance(gradient, list) else [gradient] * len(noises)
        for noise, function in zip(noises, functions, strict=True):
            z = self.mean + self.sd * noise
            g = function(z)
            if self.hessian == "mean_square":
                estimates.append((g**2).sum(0))
                sizes.append(len(g))
                g = g.mean(0)
            elif self.hessian == "price":
                estimates.append(g * (z - self.mean) / self.sd**2)
            gradients.append(g)
        mean_gradient = np.average(gradients, axis=0, weights=weights)
        if self.hessian == "squared_gradient":
            estimate = self.batch_size * mean_gradient**2
        elif self.hessian == "mean_square":
            estimate = np.sum(estimates, axis=0) / sum(sizes)
        else:
            estimate = np.average(estimates, axis=0, weights=weights)
        rho, change = 1.0 - self.b2, self.h - estimate
        self.t += 1
        self.g = self.b1 * self.g + (1.0 - self.b1) * mean_gradient
        if self.hessian == "mean_square":
            self.h = self.b2 * self.h + rho * estimate
        else:
            bend = 0.5 * rho**2 * change**2 / (self.h + self.decay)
            self.h = self.b2 * self.h + rho * estimate + bend
        direction = self.g / (1.0 - self.b1**self.t) + self.decay * self.mean
        direction = direction / (self.h + self.decay + self.damping)
        rescale = 1.0 if self.hessian == "mean_square" else self.h0 + self.decay
        self.mean = self.mean - self.lr * rescale * np.clip(direction, -self.clip, self.clip)
