# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The design oracle: exact on conjugate models, and its documented limits are real."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from tests.oracles import known_expectations
from tests.oracles.designs import design, expected_log_joint
from tests.oracles.textbook import TEXTBOOK

MATCHED = {
    "normal": (dist.Normal(torch.tensor([1.3, -2.0]), 0.7), [lambda z: z, lambda z: z**2]),
    "gamma": (dist.Gamma(torch.tensor([0.2, 3.0, 1e8]), 2.0), [lambda z: z, torch.log]),
    "beta": (dist.Beta(torch.tensor([0.3, 5.0]), 2.0), [torch.log, lambda z: (-z).log1p()]),
    "dirichlet": (dist.Dirichlet(torch.tensor([[0.3, 2.0, 1.0, 7.0, 4.0]] * 2)), [torch.log]),
    "dirichlet 2": (dist.Dirichlet(torch.tensor([0.3, 2.0])), [torch.log]),
    "log-normal": (
        dist.LogNormal(torch.tensor([0.4, -1.0]), 0.9),
        [torch.log, lambda z: z.log() ** 2, lambda z: z, lambda z: z**-2, torch.sqrt],
    ),
}


def exact_moments(name: str, q) -> list[torch.Tensor]:
    """The expectations of the functions listed in MATCHED, in closed form."""
    if name == "normal":
        return [q.loc, q.loc**2 + q.scale**2]
    if name == "gamma":
        return [q.concentration / q.rate, q.concentration.digamma() - q.rate.log()]
    if name == "log-normal":
        powers = [(p * q.loc + (p * q.scale) ** 2 / 2).exp() for p in (1, -2, 0.5)]
        return [q.loc, q.loc**2 + q.scale**2, *powers]
    if name == "beta":
        both = torch.stack([q.concentration1, q.concentration0])
        return list(both.digamma() - both.sum(0).digamma())
    total = q.concentration.sum(-1, keepdim=True)
    return [q.concentration.digamma() - total.digamma()]


@pytest.mark.parametrize("name", MATCHED)
def test_points_have_the_mean_parameters(name):
    q, statistics = MATCHED[name]
    points, weights = design(q)
    assert bool(q.support.check(points).all())
    torch.testing.assert_close(weights.sum(), torch.tensor(1.0))
    for statistic, exact in zip(statistics, exact_moments(name, q), strict=True):
        average = torch.tensordot(weights, statistic(points), 1)
        torch.testing.assert_close(average, exact, rtol=1e-12, atol=1e-12)


def test_multivariate_points_have_the_second_moments():
    root = torch.randn(2, 3, 3)
    q = dist.MultivariateNormal(torch.randn(2, 3), covariance_matrix=root @ root.mT)
    points, weights = design(q)
    second = torch.einsum("s,sbi,sbj->bij", weights, points, points)
    outer = q.loc[..., None] * q.loc[..., None, :]
    torch.testing.assert_close(second, q.covariance_matrix + outer)


@pytest.mark.parametrize("case", TEXTBOOK, ids=lambda case: case.name)
@pytest.mark.parametrize("seed", [0, 1])
def test_value_and_gradient_on_the_textbook(case, seed):
    problem = case.make(seed=seed)
    q, leaves = known_expectations.random_marginals(problem, seed)
    value = expected_log_joint(problem.model, problem.args, q)
    exact = known_expectations.expected_log_joint(problem, q)
    torch.testing.assert_close(value, exact, rtol=1e-12, atol=1e-12)
    gradients = zip(
        torch.autograd.grad(value, leaves), torch.autograd.grad(exact, leaves), strict=True
    )
    for ours, theirs in gradients:
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


X = torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.5, 2.0]])
Y = torch.tensor([0.3, -1.2])


def plated_regression():
    with pyro.plate("features", 3):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", 2):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=Y)


def plated_regression_by_hand(m, s, a, b):
    """E_q of the model above, term by term."""
    log_tau, tau = a.digamma() - b.log(), a / b
    log_2pi = torch.tensor(2 * torch.pi).log()
    prior_w = (-(m**2 + s**2) / 2 - log_2pi / 2).sum()
    prior_tau = log_tau - tau
    square = ((Y - X @ m) ** 2 + X**2 @ s**2).sum()
    return prior_w + prior_tau + 2 * (log_tau - log_2pi) / 2 - tau * square / 2


def test_a_factor_that_mixes_a_plate_needs_the_event_or_the_product():
    m, s = torch.tensor([0.2, -0.4, 1.0]), torch.tensor([0.5, 1.0, 0.3])
    a, b = torch.tensor(4.0), torch.tensor(3.0)
    exact = plated_regression_by_hand(m, s, a, b)
    tau = dist.Gamma(a, b)
    batch = {"w": dist.Normal(m, s), "tau": tau}
    event = {"w": dist.Normal(m, s).to_event(1), "tau": tau}
    wrong = expected_log_joint(plated_regression, (), batch)
    assert abs(wrong - exact) > 0.1  # the documented limit: elements move together
    for value in (
        expected_log_joint(plated_regression, (), batch, product=("w",)),
        expected_log_joint(plated_regression, (), event),
        expected_log_joint(plated_regression, (), event, vectorise=False),
    ):
        torch.testing.assert_close(value, exact, rtol=1e-13, atol=1e-13)


def test_products_of_the_elements_of_one_site_need_the_product():
    def model():
        with pyro.plate("two", 2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z[0] * z[1], 1.0), obs=torch.tensor(2.0))

    m, s = torch.tensor([0.2, -0.4]), torch.tensor([0.5, 1.5])
    second = m**2 + s**2
    log_2pi = torch.tensor(2 * torch.pi).log()
    exact = -second.sum() / 2 - (4 - 4 * m.prod() + second.prod()) / 2 - 1.5 * log_2pi
    q = {"z": dist.Normal(m, s).to_event(1)}
    torch.testing.assert_close(expected_log_joint(model, (), q, product=("z",)), exact)
    assert abs(expected_log_joint(model, (), q) - exact) > 0.1  # degree four in one block


def test_errors():
    with pytest.raises(NotImplementedError, match="no design for StudentT"):
        design(dist.StudentT(3.0))
    with pytest.raises(ValueError, match="too large"):
        design(dist.Normal(torch.zeros(30), 1.0), product=True)
    with pytest.raises(ValueError, match=r"no values for the latent sites \['tau'\]"):
        expected_log_joint(plated_regression, (), {"w": dist.Normal(torch.zeros(3), 1.0)})
