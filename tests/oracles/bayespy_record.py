# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The recorded BayesPy answers, with the models in Pyro.

::

    record = load()
    record["regression"]["lower_bound"]  # nats, converged
    record["regression"]["posterior"]["tau"]["mean"]  # see record_bayespy.py
    regression_model(*regression_args(record))  # the plain Pyro model
"""

import json
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

RECORD = Path(__file__).parents[1] / "data" / "bayespy.json"


def load() -> dict[str, Any]:
    """Read the record that record_bayespy.py wrote."""
    return json.loads(RECORD.read_text())


def regression_args(
    record: dict[str, Any], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor]:
    """Features (200, 5) and responses (200,)."""
    data = record["regression"]["data"]
    return torch.tensor(data["X"], dtype=dtype), torch.tensor(data["y"], dtype=dtype)


def hierarchical_args(
    record: dict[str, Any], dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, int]:
    """Group indices (300,), responses (300,) and the number of groups."""
    data = record["hierarchical"]["data"]
    return torch.tensor(data["group"]), torch.tensor(data["y"], dtype=dtype), data["groups"]


def regression_model(X: Tensor, y: Tensor) -> None:
    """Linear regression with an unknown noise precision."""
    w = pyro.sample("w", dist.Normal(X.new_zeros(X.shape[1]), 1.0).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(y.new_tensor(2.0), 1.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=y)


def hierarchical_model(group: Tensor, y: Tensor, groups: int) -> None:
    """Group means around a common mean, both precisions unknown."""
    mu = pyro.sample("mu", dist.Normal(y.new_tensor(0.0), 10.0))
    tau_group = pyro.sample("tau_group", dist.Gamma(y.new_tensor(2.0), 1.0))
    tau_noise = pyro.sample("tau_noise", dist.Gamma(y.new_tensor(2.0), 1.0))
    with pyro.plate("groups", groups):
        theta = pyro.sample("theta", dist.Normal(mu, tau_group.rsqrt()))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(theta[group], tau_noise.rsqrt()), obs=y)
