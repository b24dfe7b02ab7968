# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What a route is: a use of the latents z, w and t, and the outcome that it may have.

"error" marks the uses that have no meaning for a random variable, "value" those that must work;
"either" leaves the choice between a right value and a typed error.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

LOC = torch.tensor([0.4, -0.3], dtype=torch.float64)
SCALE = torch.tensor([0.5, 0.3], dtype=torch.float64)
Q = {
    "z": dist.Normal(LOC[0], SCALE[0]),
    "w": dist.MultivariateNormal(LOC, covariance_matrix=SCALE.square().diag()),
    "t": dist.Gamma(torch.tensor(6.0, dtype=torch.float64), torch.tensor(4.0, dtype=torch.float64)),
}
Y = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64)
X = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)

Body = Callable[[Tensor, Tensor, Tensor], None]


@dataclass(frozen=True)
class Route:
    """A use of the latents z (scalar Normal), w (Normal of 2) and t (Gamma) with its outcome."""

    body: Body
    outcome: str


ROUTES: dict[str, Route] = {}


def route(outcome: str) -> Callable[[Body], Body]:
    def register(body: Body) -> Body:
        ROUTES[body.__name__.strip("_")] = Route(body, outcome)
        return body

    return register


def observe(loc: Any, scale: Any = 1.0) -> None:
    with pyro.plate("data", 3):
        pyro.sample("y", dist.Normal(loc, scale), obs=Y)


def model_of(body: Body) -> Callable[[], None]:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        t = pyro.sample("t", dist.Gamma(2.0, 1.0))
        body(z, w, t)

    return model
