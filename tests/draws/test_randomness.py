# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Predictions and draws that run together: each draw has its own numbers, of the right law."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_blr.draws.program import Program
from pyro_blr.draws.together import _together, at_draws

P = torch.tensor([0.2, 0.3, 0.5])
EYE = torch.eye(2)
LAWS = {
    "Normal": dist.Normal(1.0, 2.0),
    "LogNormal": dist.LogNormal(0.0, 0.5),
    "Gamma": dist.Gamma(2.0, 3.0),
    "InverseGamma": dist.InverseGamma(6.0, 3.0),
    "Beta": dist.Beta(2.0, 3.0),
    "Dirichlet": dist.Dirichlet(torch.tensor([1.0, 2.0, 3.0])),
    "Bernoulli": dist.Bernoulli(0.3),
    "Categorical": dist.Categorical(P),
    "OneHotCategorical": dist.OneHotCategorical(P),
    "Poisson": dist.Poisson(3.0),
    "Binomial": dist.Binomial(10, torch.tensor(0.3)),
    "NegativeBinomial": dist.NegativeBinomial(5.0, torch.tensor(0.3)),
    "Exponential": dist.Exponential(2.0),
    "StudentT": dist.StudentT(8.0, 0.0, 1.0),
    "HalfNormal": dist.HalfNormal(1.0),
    "Laplace": dist.Laplace(0.0, 1.0),
    "Uniform": dist.Uniform(0.0, 2.0),
    "Weibull": dist.Weibull(1.0, 2.0),
    "Gumbel": dist.Gumbel(0.0, 1.0),
    "MultivariateNormal": dist.MultivariateNormal(torch.zeros(2), EYE),
    "LowRankMultivariateNormal": dist.LowRankMultivariateNormal(
        torch.zeros(3), torch.ones(3, 1), torch.ones(3)
    ),
}
S = 3000
GAUSSIAN = dist.MultivariateNormal(torch.zeros(1), torch.eye(1))
ONE = torch.eye(1)
LAWS["GaussianHMM"] = dist.GaussianHMM(GAUSSIAN, ONE, GAUSSIAN, ONE, GAUSSIAN, duration=3)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize("name", LAWS)
def test_draws_together_have_the_law(name):
    law = LAWS[name]

    def model():
        with pyro.plate("row", 2):
            pyro.sample("x", law)

    program = Program(model, (), {}, "test", is_free=True)
    first = program.run({})
    sites = _together(program, {}, S, first)
    value = sites["x"].values.double()
    wanted = law.sample((S, 2)).double()
    error = ((value.var(0) + wanted.var(0)) / S).sqrt() + 1e-12
    assert (((value.mean(0) - wanted.mean(0)) / error).abs() < 5).all()
    assert (value[:-1] != value[1:]).any()
    assert (value[:, 0] != value[:, 1]).any()
    assert 0.8 < float(value.std(0).mean() / wanted.std(0).mean()) < 1.25


@pytest.mark.parametrize("law", [dist.HalfCauchy(1.0), dist.Cauchy(0.0, 1.0)])
def test_heavy_tails_have_their_quantiles(law):
    program = Program(lambda: pyro.sample("x", law), (), {}, "test", is_free=True)
    value = _together(program, {}, S, program.run({}))["x"].values
    levels = torch.tensor([0.1, 0.5, 0.9])
    assert torch.allclose(law.cdf(value.quantile(levels)), levels, atol=0.04)


@pytest.mark.parametrize("law", [dist.VonMises(0.0, 2.0), dist.Wishart(torch.tensor(5.0), EYE)])
def test_laws_that_cannot_run_together_run_one_by_one(law):
    program = Program(lambda: pyro.sample("x", law), (), {}, "test", is_free=True)
    value = at_draws(program, {}, 40)["x"].values
    assert len(torch.unique(value.reshape(40, -1), dim=0)) == 40


def test_the_generator_makes_the_same_draws_again():
    program = Program(lambda: pyro.sample("x", dist.Normal(0.0, 1.0)), (), {}, "t", is_free=True)
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append(at_draws(program, {}, 10)["x"].values)
    assert torch.equal(*found)
