# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Problems with discrete latents: a mixture, topics, a hidden Markov chain.

BLR is given the model with its discrete latents, and has the bound of variational Bayes EM; whoever
needs gradients is given the same density with them summed out. The judge sums them out for all.
"""

import math
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from .. import gmm, hmm, topics
from ..discrete import DiscreteProblem
from .problem import FEWER, Problem

MIXTURE, TOPICS, CHAIN = (100_000, 2, 10), topics.Sizes(200, 100, 10, 1_000), (2_000, 5)
TINY_MIXTURE, TINY_TOPICS, TINY_CHAIN = (60, 2, 3), topics.Sizes(8, 5, 2, 6), (30, 2)


def mixture(data: Path | None, tiny: bool) -> Problem:
    """1e5 points in two dimensions, ten classes with diagonal covariances; made up."""
    given = gmm.diagonal(*(TINY_MIXTURE if tiny else MIXTURE))
    return _problem(
        "mixture",
        f"Gaussian mixture, {given.name}",
        given,
        summed_mixture,
        judged=judged_mixture,
        families=("mean-field", "full"),
        peers=(
            *("blr", "pyro_svi", "numpyro_svi", "blackjax_vi", "bayespy_vmp"),
            *("sklearn_mixture", "goal_em"),
        ),
        reference="chains of 1e5 rows would take hours",
    )


def topic_model(data: Path | None, tiny: bool) -> Problem:
    """200 documents of 100 tokens, ten topics, a thousand words; made up."""
    given = topics.problem(TINY_TOPICS if tiny else TOPICS)
    return _problem(
        "topics",
        f"Latent Dirichlet allocation, {given.name}",
        given,
        summed_topics,
        families=("mean-field",),
        peers=("blr", "pyro_svi", "numpyro_svi", "bayespy_vmp", "sklearn_topics"),
        reference="the topics have no order: chains do not mix",
    )


def hidden_markov(data: Path | None, tiny: bool) -> Problem:
    """2000 steps, five states with Normal emissions; made up."""
    given = hmm.problem(*(TINY_CHAIN if tiny else CHAIN))
    return _problem(
        "hidden_markov",
        f"Hidden Markov chain, {given.name}",
        given,
        None,
        families=("mean-field", "full"),
        peers=("blr", "pyro_svi", "numpyro_svi", "bayespy_vmp", "dynamax_em"),
        judged=forward,
        chains=FEWER,
    )


def forward(y: Tensor, K: int) -> None:
    """The chain with its paths summed out, step by step."""
    with pyro.plate("from", K):
        rows = pyro.sample("rows", dist.Dirichlet(torch.ones(K)))
    with pyro.plate("states", K):
        mu = pyro.sample("mu", dist.Normal(0.0, hmm.WIDE**0.5))
        tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    seen = dist.Normal(mu, tau.rsqrt()).log_prob(y[:, None])
    most = seen.amax(-1)
    belief, total = torch.full((K,), 1 / K), most.sum()
    for own in (seen - most[:, None]).exp().unbind(0):
        ahead = (belief @ rows) * own
        size = ahead.sum()
        belief, total = ahead / size, total + size.log()
    pyro.factor("y", total)


def _problem(name: str, title: str, given: DiscreteProblem, summed: Any, **options: Any) -> Problem:
    """With the model and the start of the benchmarks against BayesPy."""
    model, args = given.model, given.args
    return Problem(
        name,
        title,
        model,
        args,
        summed=summed,
        bayespy=given,
        start=given.start,
        ours=("default",),
        draws=128,
        **options,
    )


def summed_mixture(y: Tensor, K: int) -> None:
    """The mixture with its classes summed out."""
    N, D = y.shape
    theta = pyro.sample("theta", dist.Dirichlet(torch.ones(K)))
    with pyro.plate("classes", K, dim=-2), pyro.plate("columns", D, dim=-1):
        mu = pyro.sample("mu", dist.Normal(0.0, gmm.WIDE**0.5))
        tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    each = dist.Normal(mu, tau.rsqrt()).to_event(1)
    with pyro.plate("data", N):
        pyro.sample("y", dist.MixtureSameFamily(dist.Categorical(theta), each), obs=y)


def judged_mixture(y: Tensor, K: int) -> None:
    """The same as one product of matrices, for the judge, who is asked at many draws of each look.

    It is stated twice for the judge's time alone: at 1e5 rows a value takes 23 ms and its gradient
    53 ms, by torch's own mixture 142 and 193 ms (one thread). Peers have it as one would write it.
    """
    theta = pyro.sample("theta", dist.Dirichlet(torch.ones(K)))
    with pyro.plate("classes", K, dim=-2), pyro.plate("columns", y.shape[1], dim=-1):
        mu = pyro.sample("mu", dist.Normal(0.0, gmm.WIDE**0.5))
        tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    own = (tau.log() - math.log(2 * math.pi) - tau * mu.square()).sum(-1) / 2
    slopes = torch.cat([-tau / 2, tau * mu], -1)
    logits = torch.cat([y.square(), y], -1) @ slopes.T + theta.log() + own
    pyro.factor("y", logits.logsumexp(-1).sum())


def summed_topics(doc: Tensor, words: Tensor, sizes: topics.Sizes) -> None:
    """The tokens with their topics summed out."""
    documents, _, K, V = sizes
    with pyro.plate("documents", documents):
        theta = pyro.sample("theta", dist.Dirichlet(torch.full((K,), topics.TOPICS)))
    with pyro.plate("topics", K):
        phi = pyro.sample("phi", dist.Dirichlet(torch.full((V,), topics.WORDS)))
    pyro.factor("w", (theta @ phi)[doc, words].log().sum())
