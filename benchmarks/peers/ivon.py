# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""ivon-opt (GPL, run in a process of its own to compare with): IVON on logistic regression."""

from typing import Any

import ivon
import torch

from .stepping import DECAY, search


def run(given: dict[str, Any]) -> dict[str, Any]:
    """The search."""
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(given["threads"])
    return search(Steps, given)


class Steps:
    """One draw a step, on all data; the prior is in the loss, as it differs by weight."""

    gradients = 1

    def __init__(self, given: dict[str, Any]) -> None:
        self.X, self.y, self.precision = (torch.from_numpy(a) for a in given["args"])
        self.sites = given["sites"]

    def start(self, rate: float, horizon: int, seed: int) -> None:
        """At zero."""
        torch.manual_seed(seed)
        self.w = torch.nn.Parameter(torch.zeros(self.X.shape[1]))
        self.optimiser = ivon.IVON(
            [self.w], lr=rate, ess=len(self.y), weight_decay=1e-12, hess_init=0.1, beta2=0.99
        )
        gamma = DECAY ** (1 / horizon)
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimiser, gamma)

    def advance(self, count: int) -> None:
        """Step."""
        for _ in range(count):
            with self.optimiser.sampled_params(train=True):
                self.optimiser.zero_grad()
                loss = torch.nn.functional.binary_cross_entropy_with_logits(
                    self.X @ self.w, self.y, reduction="sum"
                )
                loss = (loss + 0.5 * (self.precision * self.w.square()).sum()) / len(self.y)
                loss.backward()
            self.optimiser.step()
            self.schedule.step()

    def state(self) -> dict[str, Any]:
        """Mean, and the standard deviation that it draws with."""
        group = self.optimiser.param_groups[0]
        variance = 1 / (group["ess"] * (group["hess"] + group["weight_decay"]))
        loc = self.w.detach().numpy().copy()
        return {"sites": self.sites, "loc": loc, "scale": variance.sqrt().numpy().copy()}
