# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Factors of two jointly Gaussian scalars: value and gradient against fine quadrature."""

import pytest
import torch

from tests.checks import engine, factor_of
from tests.estimates import by_engine
from tests.oracles import quadrature
from tests.two_scalars import CASES, Case


def by_oracle(case: Case) -> list[torch.Tensor]:
    """The ELBO and its derivative in every leaf."""
    leaves = [leaf for site in case.sites.values() for leaf in site.leaves]
    mean, covariance = case.joint()
    value, pulled = 0.0, torch.zeros(())
    for n, y in enumerate(case.y):

        def g(f, g, y=y):
            return case.density(torch.as_tensor(f), torch.as_tensor(g)).log_prob(y)

        found = quadrature.joint_expectation(g, mean[n].detach(), covariance[n].detach())
        value += found.value
        pulled = pulled + torch.as_tensor(found.d_mean) @ mean[n]
        pulled = pulled + (torch.as_tensor(found.d_covariance) * covariance[n]).sum()
    rest = torch.zeros(())
    for site in case.sites.values():
        q = site.distribution
        prior = torch.distributions.Normal(torch.zeros_like(site.leaves[0]), 1.0)
        if site.kind == "multivariate":
            eye = torch.eye(len(site.leaves[0]))
            prior = torch.distributions.MultivariateNormal(torch.zeros(len(eye)), eye)
        rest = rest - torch.distributions.kl_divergence(q, prior).sum()
    gradient = torch.autograd.grad(pulled + rest, leaves)
    return [value + rest.detach(), *gradient]


@pytest.mark.parametrize("blocks", ["site", "auto"])
@pytest.mark.parametrize("name", CASES)
def test_value_and_gradient(name: str, blocks: str) -> None:
    case = CASES[name]
    start = {n: s.detached for n, s in case.sites.items()}
    blr, _ = engine(case.model, start, blocks=blocks, on_sampled="error")
    factor = factor_of(blr, "y")
    print(factor)
    assert factor.tier == "quadrature"
    assert "two Gaussian scalars" in factor.reason
    if blocks == "site":
        ours = by_engine(blr, case.sites, 1)
        for n, a, b in zip(ours.names, ours.values, by_oracle(case), strict=True):
            print(n, float((a - b).abs().max()))
            assert float((a - b).abs().max()) < 1e-8 * max(1, float(b.abs().max())), n
