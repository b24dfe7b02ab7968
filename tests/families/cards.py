# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The six lines of every family's docstring, transcribed from it formula by formula.

Everything is computed from the parameters of the Pyro distribution with plain torch functions and
in the notation of the docstring; nothing here calls the families.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, digamma, lgamma

from pyro_blr import families as f
from tests.families.poisson import COUNTS, Poisson

HEADINGS = (
    "support",
    "base measure",
    "sufficient statistic",
    "natural",
    "mean parameters",
    "log-partition",
)
LOG_TWO_PI = math.log(2 * math.pi)


class Card(NamedTuple):
    log_base_measure: Tensor
    statistics: tuple[Tensor, ...]
    natural: tuple[Tensor, ...]
    mean_params: tuple[Tensor, ...]
    log_partition: Tensor
    entropy: Tensor


def one(z: Tensor, event_dim: int = 0) -> Tensor:
    """log h(z) for h(z) = 1."""
    return torch.zeros(z.shape[: z.dim() - event_dim], dtype=z.dtype)


def normal(q: Any, z: Tensor) -> Card:
    m, S = q.loc, q.scale**-2
    return Card(
        one(z),
        (z, z**2),
        (S * m, -S / 2),
        (m, m**2 + 1 / S),
        S * m**2 / 2 - S.log() / 2 + LOG_TWO_PI / 2,
        0.5 + LOG_TWO_PI / 2 - S.log() / 2,
    )


def multivariate_normal(q: Any, z: Tensor) -> Card:
    m, V = q.loc, q.covariance_matrix
    S, D = V.inverse(), m.shape[-1]
    Sm = torch.einsum("...ij,...j->...i", S, m)
    log_det = torch.logdet(S)
    return Card(
        one(z, 1),
        (z, torch.einsum("...i,...j->...ij", z, z)),
        (Sm, -S / 2),
        (m, torch.einsum("...i,...j->...ij", m, m) + V),
        (m * Sm).sum(-1) / 2 - log_det / 2 + D * LOG_TWO_PI / 2,
        D / 2 + D * LOG_TWO_PI / 2 - log_det / 2,
    )


def gamma(q: Any, z: Tensor) -> Card:
    a, b = q.concentration, q.rate
    return Card(
        one(z),
        (z.log(), z),
        (a - 1, -b),
        (digamma(a) - b.log(), a / b),
        lgamma(a) - a * b.log(),
        a - b.log() + lgamma(a) + (1 - a) * digamma(a),
    )


def beta(q: Any, z: Tensor) -> Card:
    a, b = q.concentration1, q.concentration0
    log_b = lgamma(a) + lgamma(b) - lgamma(a + b)
    mean_1, mean_2 = digamma(a) - digamma(a + b), digamma(b) - digamma(a + b)
    return Card(
        one(z),
        (z.log(), (1 - z).log()),
        (a - 1, b - 1),
        (mean_1, mean_2),
        log_b,
        log_b - (a - 1) * mean_1 - (b - 1) * mean_2,
    )


def dirichlet(q: Any, z: Tensor) -> Card:
    a = q.concentration
    a_0 = a.sum(-1, keepdim=True)
    mean = digamma(a) - digamma(a_0)
    log_partition = lgamma(a).sum(-1) - lgamma(a_0).squeeze(-1)
    entropy = log_partition - ((a - 1) * mean).sum(-1)
    return Card(one(z, 1), (z.log(),), (a - 1,), (mean,), log_partition, entropy)


def bernoulli(q: Any, z: Tensor) -> Card:
    p = q.probs
    return Card(
        one(z),
        (z,),
        (p.log() - (1 - p).log(),),
        (p,),
        -(1 - p).log(),
        -p * p.log() - (1 - p) * (1 - p).log(),
    )


def categorical(q: Any, z: Tensor) -> Card:
    p = q.probs
    classes = p.shape[-1]
    return Card(
        one(p[..., 0]).expand(z.shape),
        (torch.nn.functional.one_hot(z, classes)[..., :-1].to(p),),
        (p[..., :-1].log() - p[..., -1:].log(),),
        (p[..., :-1],),
        -p[..., -1].log(),
        -(p * p.log()).sum(-1),
    )


def poisson(q: Any, z: Tensor) -> Card:
    r = q.rate
    log_factorial = lgamma(COUNTS + 1)
    expected = (q.expand(r.shape).log_prob(COUNTS.view(-1, *[1] * r.dim())).exp()).movedim(0, -1)
    expected_log_factorial = (expected * log_factorial).sum(-1)
    return Card(
        -lgamma(z + 1),
        (z,),
        (r.log(),),
        (r,),
        r,
        r - r * r.log() + expected_log_factorial,
    )


CARDS: dict[type, Callable[[Any, Tensor], Card]] = {
    f.Normal: normal,
    f.MultivariateNormal: multivariate_normal,
    f.Gamma: gamma,
    f.Beta: beta,
    f.Dirichlet: dirichlet,
    f.Bernoulli: bernoulli,
    f.Categorical: categorical,
    Poisson: poisson,
}
