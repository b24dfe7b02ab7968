# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A simplex of one class is certain: a mixture of one component is that component."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.families import Dirichlet
from pyro_blr.guides import AutoNatural


def mixture(y: Tensor, discrete: bool) -> None:
    share = pyro.sample("share", dist.Dirichlet(torch.ones(1)))
    with pyro.plate("classes", 1):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        if discrete:
            z = pyro.sample("z", dist.Categorical(share))
            pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)
        else:
            pyro.sample("z", dist.Categorical(share), obs=torch.zeros(len(y)))
            pyro.sample("y", dist.Normal(mu, 1.0), obs=y)


@pytest.mark.parametrize("discrete", [True, False])
def test_one_component_has_its_evidence(discrete: bool) -> None:
    y = torch.tensor([0.3, -1.0, 2.0, 0.1])
    blr = BLR(mixture, AutoNatural(mixture), on_sampled="error")
    fit = blr.fit(y, discrete)
    evidence = dist.MultivariateNormal(torch.zeros(4), torch.eye(4) + 1.0).log_prob(y)
    assert fit.converged
    assert blr.evaluate_loss(y, discrete) == pytest.approx(-float(evidence), abs=1e-10)


@pytest.mark.parametrize("law", ["Multinomial", "OneHotCategorical"])
def test_counts_of_one_class(law: str) -> None:
    def model() -> None:
        share = pyro.sample("share", dist.Dirichlet(torch.ones(1)))
        observed = dist.OneHotCategorical(share)
        if law == "Multinomial":
            observed = dist.Multinomial(3, share)
        value = torch.ones(1) if law == "OneHotCategorical" else torch.full((1,), 3.0)
        pyro.sample("y", observed, obs=value)

    blr = BLR(model, AutoNatural(model), on_sampled="error")
    assert blr.fit().converged
    assert blr.evaluate_loss() == pytest.approx(0.0, abs=1e-12)


def test_one_class_has_no_information() -> None:
    natural = (torch.tensor([[2.0], [0.5]]),)
    covector = (torch.ones(2, 1),)
    assert torch.equal(Dirichlet().inverse_fisher(natural, covector)[0], torch.zeros(2, 1))
