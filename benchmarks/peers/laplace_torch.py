# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""laplace-torch: the mode by L-BFGS, then a full Laplace approximation of a linear layer."""

from typing import Any

import numpy as np
import torch
from laplace import Laplace
from torch.utils.data import DataLoader, TensorDataset

from .stepping import Clock


def run(given: dict[str, Any]) -> dict[str, Any]:
    """Mode and scale of the weights of logistic regression."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(given["threads"])
    X, y, precision = (torch.from_numpy(a) for a in given["args"])
    cold, warm = Clock(), Clock()
    for clock in (cold, warm):
        with clock:
            loc, covariance, steps = fit(X, y, precision)
    (name, size) = given["sites"][0]
    scale = np.linalg.cholesky(covariance)
    look = {"seconds": warm.seconds, "gradients": steps, "sites": [(name, size)]}
    looks = [{**look, "loc": loc, "scale": scale}]
    return {
        "compile": max(0.0, cold.seconds - warm.seconds),
        "runs": [{"setting": "L-BFGS, then the Hessian", "looks": looks}],
    }


def fit(X: torch.Tensor, y: torch.Tensor, precision: torch.Tensor) -> tuple[Any, Any, int]:
    """Two outputs whose first is held at zero would be another prior: one output, two classes."""
    layer = torch.nn.Linear(X.shape[1], 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    optimiser = torch.optim.LBFGS(layer.parameters(), max_iter=500, line_search_fn="strong_wolfe")
    steps = 0

    def closure() -> torch.Tensor:
        nonlocal steps
        steps += 1
        optimiser.zero_grad()
        logits = layer(X).squeeze(-1)
        loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, y, reduction="sum")
        loss = loss + 0.5 * (precision * layer.weight.square()).sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    approximation = Laplace(
        TwoClasses(layer),
        "classification",
        subset_of_weights="all",
        hessian_structure="full",
        prior_precision=precision,
    )
    approximation.fit(DataLoader(TensorDataset(X, y.long()), batch_size=len(y)))
    covariance = torch.linalg.inv(approximation.posterior_precision)
    return layer.weight.detach()[0].numpy().copy(), covariance.detach().numpy(), steps


class TwoClasses(torch.nn.Module):
    """Logits (0, f): the softmax of them is the logistic function of f."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Both."""
        f = self.layer(X)
        return torch.cat([torch.zeros_like(f), f], -1)
