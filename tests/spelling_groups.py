# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The ways to pick a latent's element for each datum by a group index, and the model of them."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.ops.indexing import Vindex

from tests.spelling_data import GROUP, ONE_HOT, OTHER, G, N, Predict, Y

NOISE = 0.7
GATHERS: dict[str, Predict] = {
    "u[g]": lambda u: u[GROUP],
    "u[g.tolist()]": lambda u: u[GROUP.tolist()],
    "index_select": lambda u: u.index_select(-1, GROUP),
    "torch.index_select": lambda u: torch.index_select(u, 0, GROUP),
    "gather": lambda u: u.gather(0, GROUP),
    "torch.take": lambda u: torch.take(u, GROUP),
    "Vindex": lambda u: Vindex(u)[..., GROUP],
    "u[..., g]": lambda u: u[..., GROUP],
    "one-hot": lambda u: ONE_HOT @ u,
    "one-hot product": lambda u: (ONE_HOT * u).sum(-1),
    "F.embedding": lambda u: F.embedding(GROUP, u.unsqueeze(-1)).squeeze(-1),
}

DIFFERENCES: dict[str, Predict] = {
    "u[g] - u[h]": lambda u: u[GROUP] - u[OTHER],
    "torch.sub": lambda u: torch.sub(u[GROUP], u[OTHER]),
    "stacked": lambda u: u[torch.stack([GROUP, OTHER])].mul(torch.tensor([[1.0], [-1.0]])).sum(0),
    "one-hot": lambda u: (ONE_HOT - F.one_hot(OTHER, G)) @ u,
    "Vindex": lambda u: Vindex(u)[..., GROUP] - Vindex(u)[..., OTHER],
}


def group_model(predict: Predict) -> Callable[[], None]:
    def model() -> None:
        with pyro.plate("groups", G):
            u = pyro.sample("u", dist.Normal(0.0, 1.0))
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(predict(u), NOISE), obs=Y)

    return model
