# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""ELBOs under a factorised q of discrete latents, by listing every joint value."""

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from pyro import poutine
from torch import Tensor

#: A site and the place of one of its elements.
Place = tuple[str, tuple[int, ...]]


class JointTable:
    """The log joint density of a model at every joint value of its discrete latents.

    :param shapes: by site, the batch shape.
    :param levels: by site, the values. # shape: (K, *event)
    """

    def __init__(
        self,
        model: Callable[[], Any],
        shapes: Mapping[str, tuple[int, ...]],
        levels: Mapping[str, Tensor],
    ) -> None:
        self.places: list[Place] = [
            (n, at) for n, shape in shapes.items() for at in itertools.product(*map(range, shape))
        ]
        counts = [range(len(levels[name])) for name, _ in self.places]
        self.rows = list(itertools.product(*counts))
        self.log_joint = []
        for row in self.rows:
            chosen = {n: torch.zeros(shape, dtype=torch.long) for n, shape in shapes.items()}
            for (name, at), value in zip(self.places, row, strict=True):
                chosen[name][at] = value
            data = {n: levels[n][index] for n, index in chosen.items()}
            trace = poutine.trace(poutine.condition(model, data=data)).get_trace()
            self.log_joint.append(float(trace.log_prob_sum()))

    def expected(self, probs: Mapping[str, Tensor]) -> float:
        """E_q[log p]. # shape of each: (*batch, K)"""
        total = 0.0
        for row, value in zip(self.rows, self.log_joint, strict=True):
            weight = 1.0
            for (name, at), chosen in zip(self.places, row, strict=True):
                weight *= float(probs[name][at][chosen])
            total += weight * value if weight else 0.0
        return total


def entropy(probs: Mapping[str, Tensor]) -> float:
    """The entropy of q."""
    return float(sum(-torch.xlogy(p, p).sum() for p in probs.values()))
