# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Latent Dirichlet allocation: the models in Pyro and in BayesPy, and words drawn from them."""

import math
from typing import Any, NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from .discrete import DiscreteProblem, Nodes

#: Concentrations of the topics of a document and of the words of a topic: of the priors, and of
#: what the data are drawn from.
TOPICS, WORDS = 0.5, 0.1
DRAWN_TOPICS, DRAWN_WORDS = 0.2, 0.05
#: How far the topics start from uniform: draws of Gamma(100, 0.01) about 1, as in Hoffman's code.
START_SHAPE = 100.0
#: A local optimum is there when no concentration moves by more, in words; batch VB has settled when
#: so many sweeps together gain less, relatively.
SETTLED, BETWEEN, STANDS = 1e-4, 20, 1e-6


class Sizes(NamedTuple):
    """Documents, tokens of each, topics, words of the vocabulary."""

    documents: int
    tokens: int
    topics: int
    vocabulary: int

    def __str__(self) -> str:
        return f"{self.documents} x {self.tokens} tokens, K={self.topics} V={self.vocabulary}"


def token_model(doc: Tensor, words: Tensor, sizes: Sizes) -> None:
    """One plate of all tokens. # shapes: (tokens,)"""
    documents, _, K, V = sizes
    with pyro.plate("documents", documents):
        theta = pyro.sample("theta", dist.Dirichlet(torch.full((K,), TOPICS)))
    with pyro.plate("topics", K):
        phi = pyro.sample("phi", dist.Dirichlet(torch.full((V,), WORDS)))
    with pyro.plate("tokens", len(words)):
        z = pyro.sample("z", dist.Categorical(theta[doc]))
        pyro.sample("w", dist.Categorical(phi[z]), obs=words)


def document_model(words: Tensor, sizes: Sizes, batch: int | None = None) -> None:
    """Documents of one length, `batch` of them at a time; theta is local to its document.

    # shape of words: (documents, tokens)
    """
    documents, tokens, K, V = sizes
    with pyro.plate("topics", K):
        phi = pyro.sample("phi", dist.Dirichlet(torch.full((V,), WORDS)))
    with pyro.plate("documents", documents, subsample_size=batch, dim=-2) as index:
        # The plate is on the left of the tokens', so theta has an axis of length one there.
        theta = pyro.sample("theta", dist.Dirichlet(torch.full((K,), TOPICS)))
        with pyro.plate("tokens", tokens, dim=-1):
            z = pyro.sample("z", dist.Categorical(theta))
            pyro.sample("w", dist.Categorical(phi[z]), obs=words[index])


def nodes(doc: Tensor, words: Tensor, sizes: Sizes) -> Nodes:
    """The tokens' model in BayesPy."""
    from bayespy.nodes import Categorical, Dirichlet, Gate, Take

    documents, _, K, V = sizes
    theta = Dirichlet(np.full(K, TOPICS), plates=(documents,))
    phi = Dirichlet(np.full(V, WORDS), plates=(K,))
    z = Categorical(Take(theta, doc.numpy()), plates=(len(words),))
    observed = Categorical(Gate(z, phi), plates=(len(words),))
    observed.observe(words.numpy())
    return Nodes({"theta": theta, "phi": phi}, z, observed)


def draw(sizes: Sizes, seed: int = 0) -> Tensor:  # shape: (documents, tokens)
    """Words of documents drawn from the model."""
    documents, tokens, K, V = sizes
    make, theta, phi = _draw_parameters(sizes, seed)
    phi = phi.cumsum(-1)
    z = (make.random((documents, tokens, 1)) > theta.cumsum(-1)[:, None]).sum(-1).clip(max=K - 1)
    words = np.empty((documents, tokens), dtype=np.int64)
    for k in range(K):
        here = z == k
        words[here] = np.searchsorted(phi[k], make.random(int(here.sum()))).clip(max=V - 1)
    return torch.from_numpy(words)


def _draw_parameters(sizes: Sizes, seed: int) -> tuple[np.random.Generator, Any, Any]:
    documents, _, K, V = sizes
    make = np.random.default_rng(seed)
    theta = make.dirichlet(np.full(K, DRAWN_TOPICS), size=documents)
    return make, theta, make.dirichlet(np.full(V, DRAWN_WORDS), size=K)


def start(sizes: Sizes, tilt: float = 0.0) -> dict[str, dist.Dirichlet]:
    """Every document has all topics alike; the topics are near uniform, and differ.

    :param tilt: how far the topics lean to those that the words were drawn from. Without it two
        ways to fit end in two local optima, a per cent of the bound apart.
    """
    make = np.random.default_rng(1)
    phi = make.gamma(START_SHAPE, 1 / START_SHAPE, size=(sizes.topics, sizes.vocabulary))
    phi += tilt * sizes.vocabulary * _draw_parameters(sizes, seed=0)[2]
    return {
        "theta": dist.Dirichlet(torch.ones(sizes.documents, sizes.topics)),
        "phi": dist.Dirichlet(torch.from_numpy(phi)),
    }


def problem(sizes: Sizes) -> DiscreteProblem:
    """Tokens in a row, for both packages."""
    words = draw(sizes)
    doc = torch.arange(sizes.documents).repeat_interleave(sizes.tokens)
    args = (doc, words.flatten(), sizes)
    return DiscreteProblem(str(sizes), token_model, args, start(sizes), nodes)


class Hoffman:
    """Stochastic variational inference by hand (Hoffman et al. 2013), and batch VB, in PyTorch.

    Needs no model: what the package's stochastic fit is compared with.
    """

    def __init__(self, words: Tensor, sizes: Sizes, tilt: float = 0.0) -> None:
        self.words, self.sizes = words, sizes
        self.phi = start(sizes, tilt)["phi"].concentration.clone()

    def local(
        self, index: Tensor, theta: Tensor | None = None, sweeps: int = 200
    ) -> tuple[Tensor, Tensor]:
        """Concentrations of theta at their optimum, and the counts of words by topics.

        # shapes: (batch, K), (K, V)
        """
        words = self.words[index]
        _, _, K, V = self.sizes
        log_words = _mean_log(self.phi).T[words]  # shape: (batch, tokens, K)
        theta = torch.ones(len(index), K) if theta is None else theta
        for _ in range(sweeps):
            weights = (_mean_log(theta)[:, None] + log_words).softmax(-1)
            new = TOPICS + weights.sum(1)
            moved = float((new - theta).abs().max())
            theta = new
            if moved < SETTLED:
                break
        counts = torch.zeros(V, K).index_add_(0, words.flatten(), weights.flatten(0, 1))
        return theta, counts.T

    def step(self, index: Tensor, rate: float) -> None:
        """One minibatch."""
        _, counts = self.local(index)
        target = WORDS + self.sizes.documents / len(index) * counts
        self.phi = (1 - rate) * self.phi + rate * target

    def settle(self, most: int = 2000) -> int:
        """Batch VB: one sweep over theta, then phi, until the bound stands; the sweeps it took."""
        every, theta, last = torch.arange(self.sizes.documents), None, -math.inf
        for sweep in range(1, most + 1):
            theta, counts = self.local(every, theta, 1)
            self.phi = WORDS + counts
            if sweep % BETWEEN == 0:
                bound = self.bound_per_word(theta)
                if bound - last < STANDS * abs(bound):
                    return sweep
                last = bound
        raise ArithmeticError("batch VB did not settle")

    def bound_per_word(self, theta: Tensor | None = None) -> float:
        """The ELBO of all data with every theta at its optimum, by the number of words."""
        every = torch.arange(self.sizes.documents)
        theta, _ = self.local(every, theta)
        log_words = _mean_log(self.phi).T[self.words]
        likelihood = torch.logsumexp(_mean_log(theta)[:, None] + log_words, -1).sum()
        total = likelihood + _minus_kl(theta, TOPICS) + _minus_kl(self.phi, WORDS)
        return float(total) / self.words.numel()


def _mean_log(concentration: Tensor) -> Tensor:
    return concentration.digamma() - concentration.sum(-1, keepdim=True).digamma()


def _minus_kl(concentration: Tensor, prior: float) -> Tensor:
    """E_q[log prior - log q] of rows under a symmetric Dirichlet."""
    rows, size = concentration.shape
    terms = (prior - concentration) * _mean_log(concentration) + concentration.lgamma()
    constant = math.lgamma(size * prior) - size * math.lgamma(prior)
    return terms.sum() - concentration.sum(-1).lgamma().sum() + rows * constant
