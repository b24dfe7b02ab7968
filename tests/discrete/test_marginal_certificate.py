# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A sum inside the draws is certified, also where its latents are drawn by quantiles."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural


def mixture(y: Tensor, share: str) -> None:
    if share == "Dirichlet":
        theta = pyro.sample("theta", dist.Dirichlet(torch.full((2,), 5.0)))
    else:
        first = pyro.sample("first", dist.Beta(5.0, 5.0))
        theta = torch.stack([first, 1 - first])
    with pyro.plate("classes", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


@pytest.mark.parametrize("share", ["Beta", "Dirichlet"])
def test_the_gap_of_the_marginal_bound_is_certified(share: str) -> None:
    noise = torch.randn(60, generator=torch.Generator().manual_seed(0))
    y = noise + 3.0 * (torch.arange(60) % 5 > 1)
    guide = AutoNatural(mixture)
    guide.set_natural({"mu": dist.Normal(torch.tensor([-1.0, 1.0]), 0.1)})
    blr = BLR(mixture, guide, discrete="marginal", on_sampled="ignore")
    fit = blr.fit(y, share, max_steps=60)
    assert fit.converged, fit
    assert fit.gap <= 0.01
