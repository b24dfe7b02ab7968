# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The statistics of a block of discrete latents: the probability of each value."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..families import Natural
from ..families.categorical import all_log_odds
from .moments import Moments
from .statistics import IS, Statistic


def probabilities(odds: Tensor) -> Tensor:
    """The softmax of log-odds, with derivatives that keep their digits. # shape: (*batch, K)

    The derivatives of a class with p near 1 are of the size 1 - p, as those of the others. torch's
    own are differences of numbers of the size 1; here ``p_k = 1 / (1 + sum_l exp(x_l - x_k))``.
    """
    if not odds.requires_grad:
        return odds.softmax(-1)
    count = odds.shape[-1]
    own = torch.eye(count, dtype=torch.bool, device=odds.device)
    gaps = odds.unsqueeze(-2) - odds.unsqueeze(-1)
    others = torch.where(own, -torch.inf, gaps).logsumexp(-1) if count > 1 else odds - torch.inf
    return (-others).sigmoid()


class DiscreteMoments(Moments):
    """Leaves: the probabilities of all K values. # shape: (*batch, K)

    The family's mean parameters are those of the first K - 1, and the last ``1 - sum p``; so
    ``dL/dmean_k = dL/dp_k - dL/dp_(K-1)``. The last is a leaf of its own because that difference
    would have no digits where it is small.
    """

    def _coordinates(self, natural: Natural) -> tuple[Tensor, ...]:
        return (probabilities(all_log_odds(natural)),)

    def _statistic(self, which: Statistic) -> Tensor:
        assert which == IS
        return self.leaves[0]

    def message(self, gradient: tuple[Tensor, ...]) -> Natural:
        (own,) = gradient
        free = own.shape[-1] - 1
        return (own.narrow(-1, 0, free) - own.narrow(-1, free, 1),)

    def of_coefficients(self, coefficients: Sequence[Tensor | None]) -> Natural:
        (given,) = coefficients
        probs = self.leaves[0].detach()
        return self.message(
            (torch.zeros_like(probs) if given is None else given.reshape(probs.shape),)
        )

    def log_prob(self, value: Tensor) -> Tensor:
        return self.block.family.log_prob(self.natural, value)

    def draw(self, noise: Tensor | None = None, count: int = 1) -> Tensor:
        return self.block.family.sample(self.natural, (count,))
