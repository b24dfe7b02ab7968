# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Mixtures whose component of each datum is summed out."""

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from .example import Draws, Stan, Synthetic, indices, posterior


def synthetic_values() -> Stan:
    """Ten values."""
    return {"y": Synthetic().normal(10)}


def mixture_parameters(draws: Draws) -> Draws:
    """Stan's ordered means."""
    lower, upper = draws["lower"], draws["lower"] + draws["gap"]
    return {**draws, "mu": torch.stack([lower, upper], -1)}


@posterior(
    "low_dim_gauss_mix-low_dim_gauss_mix",
    synthetic=synthetic_values,
    quantities=mixture_parameters,
    breaks="logsumexp",
)
def low_dim_gauss_mix(y: Tensor) -> None:
    """Two Gaussians in order: the upper mean is the lower one and a positive gap (Jacobian 1)."""
    theta = pyro.sample("theta", dist.Beta(5.0, 5.0))
    lower = pyro.sample("lower", dist.Normal(0.0, 2.0))
    gap = pyro.sample("gap", dist.ImproperUniform(constraints.positive, (), ()))
    upper = lower + gap
    pyro.sample("upper", dist.Normal(0.0, 2.0), obs=upper)
    with pyro.plate("components", 2):
        sigma = pyro.sample("sigma", dist.HalfNormal(2.0))
    first = theta.log() + dist.Normal(lower, sigma[0]).log_prob(y)
    second = torch.log1p(-theta) + dist.Normal(upper, sigma[1]).log_prob(y)
    with pyro.plate("data", len(y)):
        pyro.factor("y", torch.logsumexp(torch.stack([first, second]), 0))


def tokens(stan: Stan) -> tuple[Tensor, Tensor, int, int]:
    """Words and documents from 0, and how many there are."""
    return *indices(stan, "w", "doc"), stan["V"], stan["M"]


def synthetic_tokens() -> Stan:
    """Twenty tokens of five words in three documents."""
    make = Synthetic()
    return {"V": 5, "M": 3, "w": make.integers(1, 5, 20), "doc": make.integers(1, 3, 20)}


@posterior(
    "three_men1-ldaK2",
    arguments=tokens,
    synthetic=synthetic_tokens,
    breaks="logsumexp",
)
def ldaK2(word: Tensor, document: Tensor, words: int, documents: int) -> None:
    """Two topics: theta of each document, phi of each topic."""
    with pyro.plate("documents", documents):
        theta = pyro.sample("theta", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("topics", 2):
        phi = pyro.sample("phi", dist.Dirichlet(torch.ones(words)))
    gamma = theta[document].log() + phi[:, word].T.log()
    with pyro.plate("tokens", len(word)):
        pyro.factor("word", torch.logsumexp(gamma, -1))
