# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Small problems for the optimisers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pyro_blr.optim.optimizer import GaussianOptimizer

CURVATURE = torch.tensor([0.1, 1.0, 5.0])


def quadratic(weights: Tensor, centre: float = 0.5) -> Tensor:
    """The mean loss with the curvature (0.1, 1, 5)."""
    return 0.5 * (CURVATURE.to(weights) * (weights - centre).square()).sum()


def net(seed: int = 0, hidden: int = 7, dtype: torch.dtype | None = None) -> nn.Module:
    """Two layers between three inputs and two classes."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, hidden), nn.Tanh(), nn.Linear(hidden, 2)).to(dtype)


def batch(count: int = 20, seed: int = 5) -> tuple[Tensor, Tensor]:
    """Inputs and classes."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator)
    return x, (x[:, 0] * x[:, 1] > 0).long()


def train(
    optimizer: GaussianOptimizer, loss: Callable[[], Tensor], steps: int, **options: Any
) -> list[float]:
    """The ordinary loop."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        with optimizer.sampled_params(**options):
            value = loss()
            value.backward()
        optimizer.step()
        losses.append(value.item())
    return losses


def copies(parameters: Any) -> list[Tensor]:
    """The values of parameters as they are now."""
    return [p.detach().clone() for p in parameters]
