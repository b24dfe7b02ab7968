# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Monte Carlo oracle: unbiased on the textbook, with honest standard errors."""

import pyro
import pyro.distributions as dist
import pytest
import torch

from tests.oracles import known_expectations
from tests.oracles.monte_carlo import expected_log_joint, z_test
from tests.oracles.textbook import TEXTBOOK


@pytest.mark.parametrize("case", TEXTBOOK, ids=lambda case: case.name)
def test_value_and_gradient_on_the_textbook(case):
    problem = case.make()
    q, leaves = known_expectations.random_marginals(problem, seed=5)
    estimate = expected_log_joint(problem.model, problem.args, q, 10_000, seed=7, leaves=leaves)
    exact = known_expectations.expected_log_joint(problem, q)
    z_test(exact, estimate.value, estimate.standard_error)
    results = zip(
        torch.autograd.grad(exact, leaves),
        estimate.gradients,
        estimate.gradient_standard_errors,
        strict=True,
    )
    for gradient, mean, error in results:
        z_test(gradient, mean, error)
        # The upper triangle of a Cholesky factor is unused; all other gradients are noisy.
        assert bool((error > 0).any())


def cube(scale=1.0):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.factor("cube", scale * z**3)


def test_standard_errors_are_honest():
    m = torch.tensor(0.5, requires_grad=True)
    q = {"z": dist.Normal(m, 2.0)}
    log_2pi = torch.tensor(2 * torch.pi).log()
    exact = -(m**2 + 4) / 2 - log_2pi / 2 + m**3 + 3 * m * 4
    (gradient,) = torch.autograd.grad(exact, m)
    scores = []
    for seed in range(60):
        e = expected_log_joint(cube, (), q, 1000, seed, leaves=[m], num_batches=20)
        scores.append(
            [
                (e.value - exact.item()) / e.standard_error,
                (e.gradients[0] - gradient) / e.gradient_standard_errors[0],
            ]
        )
    scores = torch.tensor(scores)
    # 60 z-scores: their mean is N(0, 0.13^2). Their variance is 1 for the value and, with the
    # 19 degrees of freedom of 20 batches, 19/17 for the gradient, with a standard error of 0.2.
    assert bool((scores.mean(0).abs() < 0.5).all())
    assert bool(((scores.var(0) - 1).abs() < 0.8).all())


def test_seeds_and_ways_of_running():
    q = {"z": dist.Normal(0.5, 2.0)}
    state = torch.random.get_rng_state()
    a = expected_log_joint(cube, (), q, 200, seed=1)
    b = expected_log_joint(cube, (), q, 200, seed=1, vectorise=False)
    c = expected_log_joint(cube, (), q, 200, seed=2)
    torch.testing.assert_close(a.value, b.value)
    torch.testing.assert_close(a.standard_error, b.standard_error)
    assert a.value != c.value
    assert torch.equal(state, torch.random.get_rng_state())
    d = expected_log_joint(cube, (0.0,), q, 200, seed=1)
    e = expected_log_joint(cube, (), q, 200, seed=1, kwargs={"scale": 0.0})
    assert d.value == e.value != a.value


def test_a_joint_sampler_keeps_its_dependence():
    def model():
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(0.0, 1.0))
        pyro.factor("product", a * b)

    def equal_pair(number):
        a = torch.randn(number)
        return {"a": a, "b": a}

    estimate = expected_log_joint(model, (), equal_pair, 10_000, seed=0)
    exact = -torch.tensor(2 * torch.pi).log()  # -1/2 - 1/2 + 1 - log 2 pi
    # a^2 cancels, so there is no noise: the value is exact and the test one of rounding.
    assert abs(estimate.value - exact) < 1e-12 and estimate.standard_error < 1e-12
    estimate = expected_log_joint(
        model, (), {"a": dist.Normal(0.0, 1.0), "b": dist.Normal(0.0, 1.0)}, 10_000, seed=0
    )
    z_test(exact - 1, estimate.value, estimate.standard_error)


def test_z_test_fails_where_it_should():
    assert z_test(1.0, 1.3, 0.1) == pytest.approx(3.0)
    assert z_test(torch.ones(2), torch.ones(2), torch.zeros(2)) == 0.0
    for value, estimate, error in [
        (1.0, 1.6, 0.1),
        (1.0, 1.0 + 1e-8, 0.0),
        (float("nan"), 1.0, 0.1),
        (1.0, float("nan"), 0.1),
        (1.0, 1.0, float("inf")),
        (torch.ones(3), torch.tensor([1.0, 1.0, 2.0]), torch.full((3,), 0.1)),
        (torch.ones(3), torch.ones(1), torch.ones(1)),
    ]:
        with pytest.raises(AssertionError):
            z_test(value, estimate, error)
