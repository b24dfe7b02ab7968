# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Models whose discrete latents depend on each other, in many spellings.

Continuous latents are constants here, so that the ELBO is a sum over the joint values of the
discrete ones.
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro import poutine
from pyro.ops.indexing import Vindex
from torch import Tensor

N, K = 4, 3
_generator = torch.Generator().manual_seed(3)


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator, dtype=torch.float64)


SHARE = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
PROBS = 0.1 + 0.8 * _normal(K, K).sigmoid()
LOGITS = _normal(K, K)
WEIGHTS = _normal(N, N)
EDGES = (_normal(N, N) > 0).double()
CHANCES = torch.tensor([0.7, 0.2], dtype=torch.float64)
SRC, DST = torch.triu_indices(N, N, 1)
SEEN, SHOWN = EDGES[SRC, DST], WEIGHTS[SRC, DST]
#: Pairs with self loops, and some that occur twice.
LOOPS = torch.tensor([[0, 1, 2, 2, 3, 0], [0, 2, 2, 1, 0, 2]])
OFF_DIAGONAL = ~torch.eye(N, dtype=torch.bool)
PAIRS = torch.tensor([[0, 1, 2], [1, 3, 4], [2, 4, 5]])


def classes() -> Tensor:
    with pyro.plate("nodes", N):
        return pyro.sample("z", dist.Categorical(SHARE))


def vectors() -> Tensor:
    with pyro.plate("nodes", N):
        return pyro.sample("z", dist.OneHotCategorical(SHARE))


def switches() -> Tensor:
    with pyro.plate("nodes", N):
        return pyro.sample("z", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))


Model = Callable[[], Any]


def over_edges(fn: Callable[[Tensor], Any], value: Tensor) -> Model:
    """A law of each pair, along a plate of pairs."""

    def model() -> None:
        z = classes()
        with pyro.plate("edges", len(SRC)):
            pyro.sample("edge", fn(z), obs=value)

    return model


def over_matrix(fn: Callable[[Tensor], Any], nodes: Callable[[], Tensor] = classes) -> Model:
    """A law of each entry of a matrix, along two plates."""

    def model() -> None:
        z = nodes()
        with pyro.plate("rows", N, dim=-2), pyro.plate("columns", N, dim=-1):
            pyro.sample("edge", fn(z), obs=EDGES)

    return model


def as_factor(fn: Callable[[Tensor], Tensor], nodes: Callable[[], Tensor] = classes) -> Model:
    """A number that is added to the log joint density."""

    def model() -> None:
        pyro.factor("coupling", fn(nodes()))

    return model


def chain() -> None:
    z = pyro.sample("z0", dist.Categorical(SHARE))
    for t in range(1, N):
        z = pyro.sample(f"z{t}", dist.Categorical(PROBS[z]))
        pyro.sample(f"x{t}", dist.Normal(LOGITS[0][z], 1.0), obs=torch.tensor(0.3 * t).double())


def masked_by_class() -> None:
    z = classes()
    with pyro.plate("edges", len(SRC)), poutine.mask(mask=z[SRC] == z[DST]):
        pyro.sample("edge", dist.Bernoulli(torch.tensor(0.3).double()), obs=SEEN)


def scaled() -> None:
    z = classes()
    with pyro.plate("edges", len(SRC)), poutine.scale(scale=2.5):
        pyro.sample("edge", dist.Bernoulli(PROBS[z[SRC], z[DST]]), obs=SEEN)


def counts() -> None:
    with pyro.plate("nodes", N):
        z = pyro.sample("z", dist.Binomial(2, torch.tensor(0.3).double()))
    with pyro.plate("edges", len(SRC)):
        pyro.sample("edge", dist.Poisson(1.0 + z[SRC] * z[DST]), obs=SEEN)


def two_kinds() -> None:
    """A latent block model: classes of rows and of columns."""
    with pyro.plate("rows", 3, dim=-2):
        r = pyro.sample("r", dist.Categorical(SHARE))
    with pyro.plate("columns", 4, dim=-1):
        c = pyro.sample("c", dist.Categorical(SHARE))
    with pyro.plate("rows_", 3, dim=-2), pyro.plate("columns_", 4, dim=-1):
        pyro.sample("edge", dist.Bernoulli(PROBS[r, c]), obs=EDGES[:3])


def factorial() -> None:
    """Real data as a sum of features that are on or off."""
    z = switches()
    pyro.sample("x", dist.Normal(z @ WEIGHTS[:, :2], 1.0).to_event(1), obs=torch.ones(2).double())


def _same(z: Tensor) -> Tensor:
    return z[SRC] == z[DST]


def _triple(z: Tensor) -> Tensor:
    a, b = z[LOOPS[0]], z[LOOPS[1]]
    return torch.sin(a + 2 * b * b.flip(0)).sum()


def _hot(z: Tensor) -> Tensor:
    return F.one_hot(z, K).double()


def _ring(z: Tensor) -> Tensor:
    return (z @ WEIGHTS @ z) + (z[1:] * z[:-1]).sum() ** 2


MODELS: dict[str, Model] = {
    "pairs": over_edges(lambda z: dist.Bernoulli(PROBS[z[SRC], z[DST]]), SEEN),
    "ellipsis": over_edges(lambda z: dist.Bernoulli(PROBS[z[..., SRC], z[..., DST]]), SEEN),
    "vindex": over_edges(lambda z: dist.Bernoulli(Vindex(PROBS)[z[SRC], z[DST]]), SEEN),
    "vindex, ellipsis": over_edges(
        lambda z: dist.Bernoulli(Vindex(PROBS)[..., z[..., SRC], z[..., DST]]), SEEN
    ),
    "undirected": over_edges(
        lambda z: dist.Bernoulli(PROBS.reshape(-1)[PAIRS[z[SRC], z[DST]]]), SEEN
    ),
    "logits": over_edges(lambda z: dist.Bernoulli(logits=LOGITS[z[SRC], z[DST]]), SEEN),
    "normal": over_edges(lambda z: dist.Normal(LOGITS[z[SRC], z[DST]], 0.5), SHOWN),
    "poisson": over_edges(lambda z: dist.Poisson(3 * PROBS[z[SRC], z[DST]]), SEEN),
    "vector": over_edges(
        lambda z: dist.Normal(LOGITS[z[SRC]], 1.0).to_event(1), torch.ones(len(SRC), K).double()
    ),
    "matrix normal": over_edges(
        lambda z: dist.MultivariateNormal(LOGITS[z[SRC]] + LOGITS[z[DST]], torch.eye(K).double()),
        torch.ones(len(SRC), K).double(),
    ),
    "equality": over_edges(lambda z: dist.Bernoulli(torch.where(_same(z), *CHANCES)), SEEN),
    "arithmetic": over_edges(
        lambda z: dist.Normal(z[SRC] * 0.7 - z[DST].double() ** 2, 0.5), SHOWN
    ),
    "additive": over_edges(
        lambda z: dist.Bernoulli(logits=LOGITS[0][z[SRC]] - LOGITS[1][z[DST]]), SEEN
    ),
    "matrix": over_matrix(lambda z: dist.Bernoulli(PROBS[z[:, None], z[None, :]])),
    "matrix by one dim": over_matrix(lambda z: dist.Bernoulli(PROBS[z.unsqueeze(-1), z])),
    "diagonal masked": over_matrix(
        lambda z: dist.Bernoulli(PROBS[z[:, None], z[None, :]]).mask(OFF_DIAGONAL)
    ),
    "products": over_matrix(lambda z: dist.Bernoulli(z @ PROBS @ z.T), vectors),
    "logits by products": over_matrix(lambda z: dist.Bernoulli(logits=z @ LOGITS @ z.mT), vectors),
    "einsum": over_matrix(
        lambda z: dist.Bernoulli(torch.einsum("ik,kl,jl->ij", z, PROBS, z)), vectors
    ),
    "squares": over_matrix(lambda z: dist.Normal(z @ LOGITS @ z.T, 1.0), vectors),
    "one_hot": over_matrix(lambda z: dist.Bernoulli(_hot(z) @ PROBS @ _hot(z).mT)),
    "self loops": as_factor(lambda z: PROBS[z[LOOPS[0]], z[LOOPS[1]]].log().sum()),
    "triples": as_factor(_triple),
    "Potts": as_factor(lambda z: 0.7 * _same(z).sum()),
    "Potts matrix": as_factor(lambda z: (WEIGHTS * (z[:, None] == z[None, :])).sum()),
    "Ising": as_factor(lambda z: (SHOWN * (2 * z[SRC] - 1) * (2 * z[DST] - 1)).sum(), switches),
    "Ising matrix": as_factor(lambda z: (2 * z - 1) @ WEIGHTS @ (2 * z - 1), switches),
    "four at once": as_factor(_ring, switches),
    "sum of probabilities": over_edges(
        lambda z: dist.Bernoulli(0.1 + 0.2 * (z[SRC] == 0) + 0.3 * (z[DST] == 1)), SEEN
    ),
    "chain": chain,
    "mask": masked_by_class,
    "scale": scaled,
    "counts": counts,
    "two kinds": two_kinds,
    "factorial": factorial,
}
