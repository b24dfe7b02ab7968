# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Small models with discrete latents, and draws of data for them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor

Model = Callable[..., Any]


@dataclass(frozen=True, eq=False)
class Small:
    """A model whose discrete latents are few enough to try each of their joint values.

    :param discrete: the shape of each discrete latent, and the number of its values.
    :param binary: those whose values are floating point numbers: Bernoulli latents.
    """

    model: Model
    args: tuple[Any, ...]
    discrete: dict[str, tuple[tuple[int, ...], int]]
    binary: frozenset[str] = frozenset()


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def apart(seed: int, rows: int, *event: int, classes: int = 3, distance: float = 6.0) -> Tensor:
    """Rows of classes that are far from each other, in turn."""
    centre = distance * (torch.arange(rows) % classes - (classes - 1) / 2)
    return randn(seed, rows, *event) + centre.reshape(rows, *(1 for _ in event))


def weights(classes: int, concentration: float = 1.0) -> Tensor:
    prior = dist.Dirichlet(torch.full((classes,), concentration))
    return pyro.sample("theta", prior)  # type: ignore[no-any-return]


# ------------------------------------------------------------------------------------- mixtures


def diagonal_normals(y: Tensor, K: int = 3) -> None:
    theta, D = weights(K), y.shape[1]
    with pyro.plate("k", K):
        mu = pyro.sample("mu", dist.Normal(torch.full((D,), 0.5), 2.0).to_event(1))
        tau = pyro.sample("tau", dist.Gamma(torch.full((D,), 2.0), 1.5).to_event(1))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()).to_event(1), obs=y)


def full_normals(y: Tensor, K: int = 3) -> None:
    theta, D = weights(K), y.shape[1]
    with pyro.plate("k", K):
        mu = pyro.sample("mu", dist.MultivariateNormal(torch.full((D,), 0.5), 4.0 * torch.eye(D)))
        L = pyro.sample("L", dist.Wishart(torch.tensor(D + 1.5), 0.5 * torch.eye(D)))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.MultivariateNormal(mu[z], precision_matrix=L[z]), obs=y)


def joint_normals(y: Tensor, K: int = 3) -> None:
    theta, D = weights(K), y.shape[1]
    with pyro.plate("k", K):
        L = pyro.sample("L", dist.Wishart(torch.tensor(D + 1.5), 0.5 * torch.eye(D)))
        mean = torch.full((D,), 0.5)
        mu = pyro.sample("mu", dist.MultivariateNormal(mean, precision_matrix=0.7 * L))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.MultivariateNormal(mu[z], precision_matrix=L[z]), obs=y)


def mixture(y: Tensor) -> None:
    """Classes of normals of one scale, which is known."""
    theta = weights(3)
    with pyro.plate("k", 3):
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


def counts(y: Tensor, K: int = 3) -> None:
    theta, D = weights(K), y.shape[1]
    with pyro.plate("k", K):
        rate = pyro.sample("rate", dist.Gamma(torch.full((D,), 2.0), 1.5).to_event(1))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Poisson(rate[z]).to_event(1), obs=y)


def words(y: Tensor, K: int = 3, V: int = 5) -> None:
    theta = weights(K)
    with pyro.plate("k", K):
        phi = pyro.sample("phi", dist.Dirichlet(torch.full((V,), 0.8)))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Categorical(phi[z]), obs=y)


def multinomials(y: Tensor, K: int = 2) -> None:
    theta, V = weights(K), y.shape[1]
    with pyro.plate("k", K):
        phi = pyro.sample("phi", dist.Dirichlet(torch.full((V,), 0.8)))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Multinomial(4, phi[z], validate_args=False), obs=y)


def exponentials(y: Tensor, K: int = 2) -> None:
    theta = weights(K)
    with pyro.plate("k", K):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.5))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Exponential(rate[z]), obs=y)


def bernoullis(y: Tensor, K: int = 2) -> None:
    """Latent classes: answers to D questions."""
    theta, D = weights(K), y.shape[1]
    with pyro.plate("k", K):
        p = pyro.sample("p", dist.Beta(torch.full((D,), 1.5), 2.0).to_event(1))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Bernoulli(p[z]).to_event(1), obs=y)


def gammas(y: Tensor, K: int = 2) -> None:
    theta = weights(K)
    with pyro.plate("k", K):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.5))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Gamma(3.0, rate[z]), obs=y)


def betas(y: Tensor, K: int = 2) -> None:
    """Only the weights are unknown: each class has its own known Beta density."""
    theta = weights(K)
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        a = torch.tensor([1.0, 4.0])
        pyro.sample("y", dist.Beta(a[z], 2.0), obs=y)


def regressions(x: Tensor, y: Tensor, K: int = 2) -> None:
    theta = weights(K)
    with pyro.plate("k", K):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal((w[z] * x).sum(-1), 0.5), obs=y)


def logistic_regressions(x: Tensor, y: Tensor, K: int = 2) -> None:
    """Parts by quadrature."""
    theta = weights(K)
    with pyro.plate("k", K):
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Bernoulli(logits=(w[z] * x).sum(-1)), obs=y)


# ----------------------------------------------------------------------------- topics and chains


def topics(word: Tensor, doc: Tensor, D: int = 2, K: int = 3, V: int = 5) -> None:
    with pyro.plate("topics", K):
        phi = pyro.sample("phi", dist.Dirichlet(torch.full((V,), 0.8)))
    with pyro.plate("docs", D):
        theta = pyro.sample("theta", dist.Dirichlet(torch.full((K,), 0.7)))
    with pyro.plate("tokens", len(word)):
        z = pyro.sample("z", dist.Categorical(theta[doc]))
        pyro.sample("w", dist.Categorical(phi[z]), obs=word)


def nested_topics(word: Tensor, K: int = 3, V: int = 5) -> None:
    """Documents of one length. # shape of word: (D, W)"""
    with pyro.plate("topics", K):
        phi = pyro.sample("phi", dist.Dirichlet(torch.full((V,), 0.8)))
    with pyro.plate("docs", word.shape[0], dim=-2):
        theta = pyro.sample("theta", dist.Dirichlet(torch.full((K,), 0.7)))
        with pyro.plate("tokens", word.shape[1], dim=-1):
            z = pyro.sample("z", dist.Categorical(theta))
            pyro.sample("w", dist.Categorical(phi[z]), obs=word)


def markov_parameters(K: int, D: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    initial = pyro.sample("initial", dist.Dirichlet(torch.full((K,), 1.1)))
    with pyro.plate("k", K):
        rows = pyro.sample("rows", dist.Dirichlet(torch.full((K,), 0.9)))
        mu = pyro.sample("mu", dist.Normal(torch.full((D,), 0.5), 2.0).to_event(1))
        tau = pyro.sample("tau", dist.Gamma(torch.full((D,), 2.0), 1.5).to_event(1))
    return initial, rows, mu, tau


def markov(y: Tensor, K: int = 3) -> None:
    """One sequence. # shape of y: (T, D)"""
    initial, rows, mu, tau = markov_parameters(K, y.shape[-1])
    z: Any = None
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(initial if t == 0 else rows[z]))
        pyro.sample(f"y{t}", dist.Normal(mu[z], tau[z].rsqrt()).to_event(1), obs=y[t])


def markov_batch(y: Tensor, K: int = 3, there: Tensor | None = None) -> None:
    """Sequences in a plate; `there` says which steps are observed. # shape of y: (S, T, D)"""
    initial, rows, mu, tau = markov_parameters(K, y.shape[-1])
    with pyro.plate("sequences", len(y)):
        z: Any = None
        for t in pyro.markov(range(y.shape[1])):
            mask = True if there is None else there[:, t]
            with pyro.poutine.mask(mask=mask):
                z = pyro.sample(f"z{t}", dist.Categorical(initial if t == 0 else rows[z]))
                law = dist.Normal(mu[z], tau[z].rsqrt()).to_event(1)
                pyro.sample(f"y{t}", law, obs=y[:, t])


def discrete_hmm(y: Tensor, K: int = 3) -> None:
    """One sequence, or more, by `dist.DiscreteHMM`: it moves once before the first step."""
    initial, rows, mu, tau = markov_parameters(K, y.shape[-1])
    law = dist.Normal(mu, tau.rsqrt()).to_event(1)
    chain = dist.DiscreteHMM(initial.log(), rows.log(), law)
    if y.dim() == 2:
        pyro.sample("y", chain, obs=y)
        return
    with pyro.plate("sequences", len(y)):
        pyro.sample("y", chain, obs=y)


# ----------------------------------------------------------------------------------- structures


def nested_classes(y: Tensor) -> None:
    """A class of each group, on which the class of each of its members depends. # (G, N)"""
    p1 = pyro.sample("p1", dist.Dirichlet(torch.ones(2)))
    with pyro.plate("classes", 2):
        p2 = pyro.sample("p2", dist.Dirichlet(torch.full((3,), 1.2)))
    with pyro.plate("k", 3):
        m = pyro.sample("m", dist.Normal(0.0, 5.0))
    with pyro.plate("groups", y.shape[0], dim=-2):
        u = pyro.sample("u", dist.Categorical(p1))
        with pyro.plate("n", y.shape[1], dim=-1):
            v = pyro.sample("v", dist.Categorical(p2[u]))
            pyro.sample("y", dist.Normal(m[v], 1.0), obs=y)


def occupancy(y: Tensor) -> None:
    """Detections at sites that are occupied. # shape of y: (sites, visits)"""
    psi, p = pyro.sample("psi", dist.Beta(1.5, 1.0)), pyro.sample("p", dist.Beta(1.0, 2.0))
    with pyro.plate("sites", y.shape[0], dim=-2):
        z = pyro.sample("z", dist.Bernoulli(psi))
        with pyro.plate("visits", y.shape[1], dim=-1):
            pyro.sample("y", dist.Bernoulli(torch.where(z == 1, p, torch.tensor(1e-6))), obs=y)


def zero_inflated(y: Tensor) -> None:
    """Counts, or nothing at all."""
    gate = pyro.sample("gate", dist.Beta(1.5, 1.0))
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Bernoulli(gate))
        pyro.sample("y", dist.Poisson(torch.where(z == 1, torch.tensor(1e-3), rate)), obs=y)


def blocks(A: Tensor, K: int = 2) -> None:
    """A stochastic block model of a graph whose nodes are a Python loop."""
    pi = weights(K)
    with pyro.plate("a", K, dim=-2), pyro.plate("b", K, dim=-1):
        B = pyro.sample("B", dist.Beta(1.0, 1.5))
    z = [pyro.sample(f"z{i}", dist.Categorical(pi)) for i in range(len(A))]
    for i in range(len(A)):
        for j in range(i):
            pyro.sample(f"A{i},{j}", dist.Bernoulli(Vindex(B)[z[i], z[j]]), obs=A[i, j])


def loop_over_a_plate(y: Tensor, K: int = 2) -> None:
    theta = weights(K)
    with pyro.plate("k", K):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    for i in pyro.plate("n", len(y)):
        z = pyro.sample(f"z{i}", dist.Categorical(theta))
        pyro.sample(f"y{i}", dist.Normal(mu[z], 1.0), obs=y[i])


def parallel_choices(y: Tensor) -> None:
    """Two independent latents choose the mean and the precision of one row."""
    p, q = pyro.sample("p", dist.Beta(1.0, 1.0)), pyro.sample("q", dist.Beta(2.0, 1.0))
    with pyro.plate("k", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("n", len(y)):
        a = pyro.sample("a", dist.Bernoulli(p)).long()
        b = pyro.sample("b", dist.Bernoulli(q)).long()
        pyro.sample("y", dist.Normal(mu[a], tau[b].rsqrt()), obs=y)


def two_emissions(x: Tensor, y: Tensor, K: int = 2) -> None:
    """One latent, and two data of different laws that depend on it."""
    theta = weights(K)
    with pyro.plate("k", K):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("x", dist.Normal(mu[z], 1.0), obs=x)
        pyro.sample("y", dist.Poisson(rate[z]), obs=y)


def local_latents(y: Tensor, K: int = 2) -> None:
    """A mixture prior of a continuous latent of each row."""
    theta = weights(K)
    with pyro.plate("k", K):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        x = pyro.sample("x", dist.Normal(mu[z], 1.0))
        pyro.sample("y", dist.Normal(x, 0.5), obs=y)


def annotators(y: Tensor, K: int = 2) -> None:
    """Labels of items, each by annotators with confusion matrices. # shape: (items, annotators)"""
    theta = weights(K)
    with pyro.plate("true", K, dim=-2), pyro.plate("annotators", y.shape[1], dim=-1):
        said = pyro.sample("said", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("items", y.shape[0], dim=-2):
        z = pyro.sample("z", dist.Categorical(theta))
        with pyro.plate("labels", y.shape[1], dim=-1) as who:
            pyro.sample("y", dist.Categorical(Vindex(said)[..., z, who, :]), obs=y)


def second_order(y: Tensor, K: int = 2) -> None:
    moves = pyro.sample("moves", dist.Dirichlet(torch.ones(K, K, K)).to_event(2))
    with pyro.plate("k", K):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    before = last = torch.tensor(0)
    for t in pyro.markov(range(len(y)), history=2):
        z = pyro.sample(f"z{t}", dist.Categorical(Vindex(moves)[before, last]))
        pyro.sample(f"y{t}", dist.Normal(mu[z], 1.0), obs=y[t])
        before, last = last, z


def draw(seed: int, law: Any, *shape: int) -> Tensor:
    """Draws of a distribution that leave the stream of the tests alone."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return law.sample(shape)  # type: ignore[no-any-return]


ONES = draw(3, dist.Bernoulli(0.6), 3, 2)
GRAPH = draw(4, dist.Bernoulli(0.5), 4, 4)
DOC, WORD = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([1, 4, 0, 0, 2])

SMALL = {
    "diagonal normals": Small(diagonal_normals, (apart(0, 2, 2),), {"z": ((2,), 3)}),
    "full normals": Small(full_normals, (apart(0, 2, 2),), {"z": ((2,), 3)}),
    "counts": Small(counts, (draw(0, dist.Poisson(2.0), 2, 2),), {"z": ((2,), 3)}),
    "words": Small(words, (torch.tensor([1, 4, 1]),), {"z": ((3,), 3)}),
    "multinomials": Small(
        multinomials, (torch.tensor([[3.0, 1, 0], [0, 2, 2], [1, 1, 2]]),), {"z": ((3,), 2)}
    ),
    "exponentials": Small(exponentials, (torch.tensor([0.1, 3.0, 1.0]),), {"z": ((3,), 2)}),
    "bernoullis": Small(bernoullis, (ONES,), {"z": ((3,), 2)}),
    "gammas": Small(gammas, (torch.tensor([0.5, 6.0, 2.0]),), {"z": ((3,), 2)}),
    "betas": Small(betas, (torch.tensor([0.3, 0.9, 0.6]),), {"z": ((3,), 2)}),
    "regressions": Small(regressions, (randn(1, 3, 2), randn(2, 3)), {"z": ((3,), 2)}),
    "logistic regressions": Small(
        logistic_regressions, (randn(1, 3, 2), ONES[:, 0]), {"z": ((3,), 2)}
    ),
    "topics": Small(topics, (WORD[1:4], DOC[1:4]), {"z": ((3,), 3)}),
    "nested topics": Small(
        lambda word: nested_topics(word, 2), (torch.tensor([[1, 4], [0, 2]]),), {"z": ((2, 2), 2)}
    ),
    "chain": Small(markov, (apart(0, 3, 1),), {f"z{t}": ((), 3) for t in range(3)}),
    "chains": Small(
        lambda y: markov_batch(y, 2), (randn(0, 2, 2, 1),), {f"z{t}": ((2,), 2) for t in range(2)}
    ),
    "nested classes": Small(
        nested_classes, (randn(0, 1, 2),), {"u": ((1, 1), 2), "v": ((1, 2), 3)}
    ),
    "occupancy": Small(occupancy, (ONES,), {"z": ((3, 1), 2)}, frozenset("z")),
    "zero inflated": Small(
        zero_inflated, (torch.tensor([0.0, 3.0, 0.0]),), {"z": ((3,), 2)}, frozenset("z")
    ),
    "block model": Small(blocks, (GRAPH,), {f"z{i}": ((), 2) for i in range(4)}),
    "loop over a plate": Small(
        loop_over_a_plate, (randn(0, 3),), {f"z{i}": ((), 2) for i in range(3)}
    ),
    "parallel choices": Small(
        parallel_choices, (randn(0, 2),), {"a": ((2,), 2), "b": ((2,), 2)}, frozenset("ab")
    ),
    "two emissions": Small(
        two_emissions, (randn(0, 3), torch.tensor([0.0, 4.0, 1.0])), {"z": ((3,), 2)}
    ),
    "annotators": Small(annotators, (torch.tensor([[0, 2], [1, 1]]),), {"z": ((2, 1), 2)}),
    "chain of second order": Small(
        second_order, (randn(0, 3),), {f"z{t}": ((), 2) for t in range(3)}
    ),
    "local latents": Small(local_latents, (randn(0, 3),), {"z": ((3,), 2)}),
}
