# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The models of `models` with the oracles of variational Bayes EM for them, at the same q."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch

from tests.discrete import models
from tests.discrete.models import Model, apart, draw, randn
from tests.oracles import laws
from tests.oracles.emissions import Counts, DiagonalNormals, FullNormals, Words
from tests.oracles.variational_em import HiddenMarkov, Mixture, Topics

K, D, V = 3, 2, 5
Laws = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class Case:
    """A model, its data, a q to start from, and the oracle at any q.

    :param oracle: from the laws of the parameters to the oracle.
    :param data: what the oracle's methods take.
    :param first: from an oracle after a sweep to the natural parameters of the blocks whose update
        depends on the discrete latents alone, or that the sweep moves before those that they
        depend on.
    """

    model: Model
    args: tuple[Any, ...]
    start: Laws
    oracle: Callable[[Laws], Any]
    data: tuple[Any, ...]
    first: Callable[[Any], dict[str, tuple[Any, ...]]]

    def bound(self, start: Laws) -> float:
        return float(self.oracle(start).elbo(*self.data))


def n(value: Any) -> np.ndarray:
    return value.detach().numpy()


def positive(seed: int, *shape: int) -> Any:
    return 0.5 + randn(seed, *shape).abs()


def normals(seed: int, D: int) -> Any:
    scale = torch.diag_embed(positive(seed + 1, K, D))
    return dist.MultivariateNormal(randn(seed, K, D) * 3, scale_tril=scale)


def gammas(seed: int, D: int) -> Any:
    return dist.Gamma(1 + positive(seed, K, D), positive(seed + 1, K, D)).to_event(1)


def dirichlets(seed: int, *shape: int) -> Any:
    return dist.Dirichlet(0.3 + positive(seed, *shape))


def dirichlet_of(law: Any) -> laws.Dirichlet:
    return laws.Dirichlet(n(law.concentration))


def gamma_of(law: Any) -> laws.Gamma:
    law = law.base_dist
    return laws.Gamma(n(law.concentration), n(law.rate))


def diagonal_of(q: Laws) -> DiagonalNormals:
    mu = q["mu"]
    ones = np.ones(tuple(mu.loc.shape))
    return DiagonalNormals(
        laws.Normal(n(mu.loc), n(mu.variance)),
        gamma_of(q["tau"]),
        laws.Normal(0.5 * ones, 4 * ones),
        laws.Gamma(2 * ones, 1.5 * ones),
    )


def full_of(q: Laws) -> FullNormals:
    mu, L = q["mu"], q["L"]
    eyes = np.tile(np.eye(D), (K, 1, 1))
    return FullNormals(
        laws.MultivariateNormal(n(mu.loc), n(mu.covariance_matrix)),
        laws.Wishart(n(L.df), n(L.covariance_matrix)),
        laws.MultivariateNormal(np.full((K, D), 0.5), 4 * eyes),
        laws.Wishart(np.full(K, D + 1.5), 0.5 * eyes),
    )


def counts_of(q: Laws) -> Counts:
    ones = np.ones((K, D))
    return Counts(gamma_of(q["rate"]), laws.Gamma(2 * ones, 1.5 * ones))


def words_of(q: Laws) -> Words:
    return Words(dirichlet_of(q["phi"]), laws.Dirichlet(np.full((K, V), 0.8)))


def mixture(emission: Callable[[Laws], Any]) -> Callable[[Laws], Mixture]:
    def oracle(q: Laws) -> Mixture:
        return Mixture(dirichlet_of(q["theta"]), laws.Dirichlet(np.ones(K)), emission(q))

    return oracle


def topics_of(q: Laws) -> Topics:
    theta = dirichlet_of(q["theta"])
    theta = laws.Dirichlet(theta.concentration.reshape(-1, K))
    return Topics(theta, laws.Dirichlet(np.full(theta.concentration.shape, 0.7)), words_of(q))


def chain(silent: bool) -> Callable[[Laws], HiddenMarkov]:
    def oracle(q: Laws) -> HiddenMarkov:
        return HiddenMarkov(
            dirichlet_of(q["initial"]),
            dirichlet_of(q["rows"]),
            laws.Dirichlet(np.full(K, 1.1)),
            laws.Dirichlet(np.full((K, K), 0.9)),
            diagonal_of(q),
            silent,
        )

    return oracle


def natural(law: Any) -> tuple[np.ndarray, ...]:
    """Natural parameters of an oracle's law, as the package packs them."""
    if isinstance(law, laws.Dirichlet):
        return (law.concentration - 1,)
    if isinstance(law, laws.Gamma):
        return law.shape - 1, -law.rate
    if isinstance(law, laws.Normal):
        law = laws.MultivariateNormal(
            law.mean, law.variance[..., None] * np.eye(law.mean.shape[-1])
        )
    precision = np.linalg.inv(law.cov)
    return np.einsum("kij,kj->ki", precision, law.mean), -precision / 2


def first_of_mixture(at: Any) -> dict[str, tuple[Any, ...]]:
    e = at.emission
    own = {"mu": getattr(e, "mu", None), "rate": getattr(e, "rate", None)}
    own |= {"phi": getattr(e, "phi", None), "theta": at.theta}
    return {name: natural(law) for name, law in own.items() if law is not None}


def first_of_topics(at: Any) -> dict[str, tuple[Any, ...]]:
    return {"theta": natural(at.theta), "phi": natural(at.phi.phi)}


def first_of_chain(at: Any) -> dict[str, tuple[Any, ...]]:
    return {name: natural(getattr(at, name)) for name in ("initial", "rows")}


def chain_start(D: int) -> dict[str, Any]:
    return {
        "initial": dirichlets(11, K),
        "rows": dirichlets(12, K, K),
        "mu": normals(13, D),
        "tau": gammas(15, D),
    }


ROWS = apart(1, 40, D)
COUNTS = draw(2, dist.Poisson(torch.tensor([[1.0, 12.0], [12.0, 1.0], [5.0, 5.0]])), 12).reshape(
    -1, 2
)
TOKENS = draw(3, dist.Categorical(torch.ones(V)), 60)
DOC = torch.arange(60) // 15
SEQUENCE = apart(4, 30, 1)
SEQUENCES = SEQUENCE.reshape(5, 6, 1)
THETA = dirichlets(0, K)
WISHART = dist.Wishart(
    torch.tensor([4.0, 5.0, 6.0]), covariance_matrix=torch.eye(D) + 0.3 * torch.ones(K, D, D)
)

CASES = {
    "diagonal normals": Case(
        models.diagonal_normals,
        (ROWS,),
        {"theta": THETA, "mu": normals(1, D), "tau": gammas(3, D)},
        mixture(diagonal_of),
        (n(ROWS),),
        first_of_mixture,
    ),
    "full normals": Case(
        models.full_normals,
        (ROWS,),
        {"theta": THETA, "mu": normals(1, D), "L": WISHART},
        mixture(full_of),
        (n(ROWS),),
        first_of_mixture,
    ),
    "counts": Case(
        models.counts,
        (COUNTS,),
        {"theta": THETA, "rate": gammas(3, D)},
        mixture(counts_of),
        (n(COUNTS),),
        first_of_mixture,
    ),
    "words": Case(
        models.words,
        (TOKENS,),
        {"theta": THETA, "phi": dirichlets(5, K, V)},
        mixture(words_of),
        (n(TOKENS),),
        first_of_mixture,
    ),
    "topics": Case(
        lambda word, doc: models.topics(word, doc, D=4),
        (TOKENS, DOC),
        {"theta": dirichlets(0, 4, K), "phi": dirichlets(5, K, V)},
        topics_of,
        (n(DOC), n(TOKENS)),
        first_of_topics,
    ),
    "nested topics": Case(
        models.nested_topics,
        (TOKENS.reshape(4, 15),),
        {"theta": dirichlets(0, 4, 1, K), "phi": dirichlets(5, K, V)},
        topics_of,
        (n(DOC), n(TOKENS)),
        first_of_topics,
    ),
    "chain": Case(
        models.markov, (SEQUENCE,), chain_start(1), chain(False), ([n(SEQUENCE)],), first_of_chain
    ),
    "chains": Case(
        models.markov_batch,
        (SEQUENCES,),
        chain_start(1),
        chain(False),
        ([n(y) for y in SEQUENCES],),
        first_of_chain,
    ),
    "DiscreteHMM": Case(
        models.discrete_hmm,
        (SEQUENCE,),
        chain_start(1),
        chain(True),
        ([n(SEQUENCE)],),
        first_of_chain,
    ),
    "DiscreteHMM, sequences": Case(
        models.discrete_hmm,
        (SEQUENCES,),
        chain_start(1),
        chain(True),
        ([n(y) for y in SEQUENCES],),
        first_of_chain,
    ),
}
