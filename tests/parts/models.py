# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Models whose data come in parts, each with its rows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

N, D = 23, 3


def normals(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X = normals(0, N, D)
Y = X @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) + 0.3 * normals(1, N)
CLASSES = (Y > 0).double()
COUNTS = Y.abs().floor()


def regression(x: Tensor, y: Tensor) -> None:
    """Conjugate, with a joint block of the weights and the precision of the noise."""
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(D, dtype=x.dtype), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ w, tau.rsqrt()), obs=y)


def hierarchy(group: Tensor, y: Tensor) -> None:
    """Several blocks: groups that all parts share, whose spread is unknown."""
    spread = pyro.sample("spread", dist.Gamma(2.0, 2.0))
    noise = pyro.sample("noise", dist.Gamma(2.0, 2.0))
    with pyro.plate("groups", 3):
        mean = pyro.sample("mean", dist.Normal(0.0, spread.rsqrt()))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean[group], noise.rsqrt()), obs=y)


def mixture(y: Tensor) -> None:
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(2, dtype=y.dtype)))
    with pyro.plate("components", 2):
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(weights))
        pyro.sample("y", dist.Normal(loc[z], 1.0), obs=y)


def logistic(x: Tensor, y: Tensor) -> None:
    """By quadrature."""
    w = pyro.sample("w", dist.Normal(torch.zeros(D, dtype=x.dtype), 3.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def poisson(x: Tensor, y: Tensor) -> None:
    """Exact, and not conjugate: steps are searched."""
    w = pyro.sample("w", dist.Normal(torch.zeros(D, dtype=x.dtype), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Poisson((0.3 * x @ w).exp()), obs=y)


def softmax(x: Tensor, y: Tensor) -> None:
    """Three scalars an element: at draws of q."""
    w = pyro.sample("w", dist.Normal(torch.zeros(D, 3, dtype=x.dtype), 1.0).to_event(2))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Categorical(logits=x @ w), obs=y)


def learnt(x: Tensor, y: Tensor) -> None:
    """With a parameter."""
    scale = pyro.param("scale", torch.tensor(0.7, dtype=x.dtype), dist.constraints.positive)
    w = pyro.sample("w", dist.Normal(torch.zeros(D, dtype=x.dtype), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(x @ w, scale), obs=y)


def scores(x: Tensor) -> None:
    """Latents of the rows' own, conjugate given the loadings."""
    with pyro.plate("features", D, dim=-1):
        w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", len(x), dim=-2):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=x.dtype), 1.0).to_event(1))
        with pyro.plate("columns", D, dim=-1):
            pyro.sample("x", dist.Normal((z * w).sum(-1), tau.rsqrt()), obs=x)


def dispersed(x: Tensor, y: Tensor) -> None:
    """Latents of the rows' own that are not conjugate."""
    w = pyro.sample("w", dist.Normal(torch.zeros(D, dtype=x.dtype), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        e = pyro.sample("e", dist.Normal(0.0, 0.5))
        pyro.sample("y", dist.Poisson((0.3 * x @ w + e).exp()), obs=y)


def topics(words: Tensor) -> None:
    """Discrete latents that are summed out, beside latents of the rows' own."""
    with pyro.plate("topics", 2):
        topic = pyro.sample("topic", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", len(words), dim=-2):
        share = pyro.sample("share", dist.Dirichlet(torch.ones(2)))
        with pyro.plate("words", words.shape[1], dim=-1):
            z = pyro.sample("z", dist.Categorical(share))
            pyro.sample("word", dist.Categorical(topic[z]), obs=words)


@dataclass(frozen=True)
class Example:
    """A model, its rows, and where it starts if that is not left to it.

    :param options: of BLR.
    """

    model: Callable[..., Any]
    rows: tuple[Tensor, ...]
    options: dict[str, Any] = field(default_factory=dict)
    start: Callable[[], dict[str, Any]] = dict

    def part(self, where: slice | Tensor) -> tuple[Tensor, ...]:
        """Some of the rows."""
        return tuple(r[where] for r in self.rows)


def _apart() -> dict[str, Any]:
    return {"loc": dist.Normal(torch.tensor([-1.0, 1.0], dtype=torch.float64), 0.5)}


def _loadings() -> dict[str, Any]:
    loc = torch.tensor([[1.0, 0.2], [-0.5, 0.8], [0.3, -1.0]], dtype=torch.float64)
    return {"w": dist.MultivariateNormal(loc, 0.1 * torch.eye(2, dtype=torch.float64))}


EXAMPLES: dict[str, Example] = {
    "regression": Example(regression, (X, Y)),
    "hierarchy": Example(hierarchy, (torch.arange(N) % 3, Y)),
    "mixture": Example(mixture, (Y,), start=_apart),
    "logistic": Example(logistic, (X, CLASSES)),
    "poisson": Example(poisson, (X, COUNTS)),
    "softmax": Example(
        softmax, (X, COUNTS.clamp(max=2)), {"on_sampled": "ignore", "num_draws": 64}
    ),
    "learnt": Example(learnt, (X, Y)),
    "maximised": Example(learnt, (X, Y), {"params": "em"}),
}

#: With latents of the rows' own, whose optimum each part has for itself.
LOCAL: dict[str, Example] = {
    "scores": Example(scores, (X,), {"sharded": "data"}, _loadings),
    "dispersed": Example(dispersed, (X, COUNTS)),
}
