# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The categorical distribution of a class."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import pad

from pyro_blr.errors import ArgumentError
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.odds import class_log_odds
from pyro_blr.families.registry import register_family, unwrap

#: Classes with a smaller probability have no part in a preconditioner: the Fisher information of
#: their log-odds is of this size, and covectors that come of differentiation have no digits there.
LEAST = 1e-8


def all_log_odds(natural: Natural) -> Tensor:
    """Return the log-odds of all K classes against the last  # shape: (*batch, K)"""
    return pad(natural[0], (0, 1))


class Categorical(ExponentialFamily):
    """Categorical over the classes 0, ..., K - 1 with probabilities p; the last is the reference.

    - support: integers z from 0 to K - 1
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (one-hot vector of z without its last entry,)
    - natural: (log p_k - log p_(K-1) for k < K - 1,)
    - mean parameters: (p_k for k < K - 1,)
    - log-partition: -log p_(K-1); entropy: -sum p_k log p_k
    """

    name = "Categorical"
    event_dim = 0
    natural_event_dims = (1,)
    support = constraints.nonnegative_integer
    distribution_type = dist.Categorical

    def log_partition(self, natural: Natural) -> Tensor:
        return all_log_odds(natural).logsumexp(-1)

    def mean_params(self, natural: Natural) -> MeanParams:
        probs = all_log_odds(natural).softmax(-1)
        return (probs.narrow(-1, 0, probs.shape[-1] - 1),)

    def natural(self, mean_params: MeanParams) -> Natural:
        (probs,) = mean_params
        return (probs.log() - torch.log1p(-probs.sum(-1, keepdim=True)),)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        if natural is None:
            raise ArgumentError(
                "A class does not show how many there are; pass the natural parameters too: "
                "Categorical().sufficient_statistics(value, natural)."
            )
        free = natural[0].shape[-1]
        classes = torch.arange(free, device=value.device)
        return ((value.unsqueeze(-1) == classes).to(natural[0].dtype),)

    def in_domain(self, natural: Natural) -> Tensor:
        return (natural[0].abs() < math.inf).all(-1)

    def distribution(self, natural: Natural) -> Any:
        return dist.Categorical(logits=all_log_odds(natural))

    def natural_of(self, distribution: Any) -> Natural:
        categorical = unwrap(distribution)
        if not isinstance(categorical, torch.distributions.Categorical):
            raise self.wrong_distribution(distribution)
        return (class_log_odds(categorical),)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # F = diag(p) - p p' over the first K - 1 classes; F^-1 = diag(1/p) + 11'/p_(K-1).
        (first,) = covector
        free = first.shape[-1]
        probs, reference = all_log_odds(natural).softmax(-1).split((free, 1), -1)
        return (first / probs + first.sum(-1, keepdim=True) / reference,)

    def near_inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        """The product with the inverse over the classes that have a probability at all: log-odds
        of the others stay. The most probable class is the reference.
        """
        probs = all_log_odds(natural).softmax(-1)
        own = torch.arange(probs.shape[-1], device=probs.device) == probs.argmax(-1, keepdim=True)
        moves = (probs >= LEAST) & ~own
        (first,) = covector
        every = torch.cat([first, -first.sum(-1, keepdim=True)], -1)
        every = torch.where(moves, every, 0.0)
        shared = every.sum(-1, keepdim=True) / probs.amax(-1, keepdim=True)
        step = torch.where(moves, every / probs + shared, 0.0)
        return (step[..., :-1] - step[..., -1:],)

    def entropy(self, natural: Natural) -> Tensor:
        log_probs = all_log_odds(natural).log_softmax(-1)
        return -(log_probs.exp() * log_probs).sum(-1)

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        log_q, log_p = (
            all_log_odds(natural_q).log_softmax(-1),
            all_log_odds(natural_p).log_softmax(-1),
        )
        return (log_q.exp() * (log_q - log_p)).sum(-1)

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        log_probs = all_log_odds(natural).log_softmax(-1)
        log_probs, index = torch.broadcast_tensors(log_probs, value.long().unsqueeze(-1))
        density: Tensor = log_probs.gather(-1, index[..., :1]).squeeze(-1)
        return density


register_family(Categorical, torch.distributions.Categorical)
