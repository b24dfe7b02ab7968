# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The fine quadrature against closed forms and identities."""

import numpy as np
import pyro.distributions as dist
import pytest
import torch

from tests.oracles.quadrature import Expectation, expectation, joint_expectation

MOMENTS = [(0.0, 1.0), (1.3, 0.02), (-2.0, 31.6)]


@pytest.mark.parametrize(("mean", "sd"), MOMENTS)
def test_polynomials(mean, sd):
    result = expectation(lambda f: f**4 - 3 * f, mean, sd)
    v = sd**2
    exact = Expectation(
        mean**4 + 6 * mean**2 * v + 3 * v**2 - 3 * mean,
        4 * mean**3 + 12 * mean * v - 3,
        6 * mean**2 + 6 * v,
    )
    scale = max(1.0, mean**4 + v**2)
    np.testing.assert_allclose(result.value, exact.value, rtol=1e-12)
    np.testing.assert_allclose(result.d_mean, exact.d_mean, rtol=1e-12, atol=1e-13 * scale / sd)
    np.testing.assert_allclose(
        result.d_variance, exact.d_variance, rtol=1e-12, atol=1e-13 * scale / v
    )


@pytest.mark.parametrize(("mean", "sd"), [(0.3, 1.0), (-1.0, 5.0), (2.0, 0.01)])
def test_exponential(mean, sd):
    result = expectation(np.exp, mean, sd)
    value = np.exp(mean + sd**2 / 2)
    np.testing.assert_allclose(result.value, value, rtol=1e-11)
    np.testing.assert_allclose(result.d_mean, value, rtol=1e-10)
    np.testing.assert_allclose(result.d_variance, value / 2, rtol=1e-8)


@pytest.mark.parametrize(("mean", "sd"), [(0.3, 1.0), (-1.0, 31.6)])
def test_absolute_value_with_its_kink(mean, sd):
    from scipy.stats import norm

    result = expectation(np.abs, mean, sd, kinks=[0.0])
    density, tail = norm.pdf(mean / sd), norm.cdf(mean / sd)
    np.testing.assert_allclose(result.value, 2 * sd * density + mean * (2 * tail - 1), rtol=1e-13)
    np.testing.assert_allclose(result.d_mean, 2 * tail - 1, rtol=1e-12)
    np.testing.assert_allclose(result.d_variance, density / sd, rtol=1e-12)


@pytest.mark.parametrize(("mean", "sd"), MOMENTS)
def test_logistic_symmetry(mean, sd):
    """log sigmoid(f) - log sigmoid(-f) = f, of which the expectation is the mean."""
    right = expectation(lambda f: -np.logaddexp(0, -f), mean, sd)
    left = expectation(lambda f: -np.logaddexp(0, f), mean, sd)
    np.testing.assert_allclose(right.value - left.value, mean, rtol=1e-12, atol=1e-12 * (1 + sd))
    np.testing.assert_allclose(right.d_mean - left.d_mean, 1.0, rtol=1e-11)
    np.testing.assert_allclose(right.d_variance, left.d_variance, rtol=1e-9)


def test_the_probit_of_a_gaussian_has_a_closed_form():
    from scipy.stats import norm

    for mean, sd in MOMENTS:
        result = expectation(norm.cdf, mean, sd)
        np.testing.assert_allclose(result.value, norm.cdf(mean / np.hypot(1, sd)), rtol=1e-12)


def test_a_narrow_student_t_agrees_with_bonnet_and_price():
    """E[g'] and E[g'']/2 by autograd against the derivatives of the density."""

    def log_prob(f):
        return dist.StudentT(4.0, 0.2, 0.03).log_prob(f)

    def derivative(f, order):
        f = torch.as_tensor(f).requires_grad_()
        result = log_prob(f)
        for _ in range(order):
            (result,) = torch.autograd.grad(result.sum(), f, create_graph=True)
        return result.detach()

    result = expectation(lambda f: log_prob(torch.as_tensor(f)), 0.0, 1.0)
    first = expectation(lambda f: derivative(f, 1), 0.0, 1.0)
    second = expectation(lambda f: derivative(f, 2), 0.0, 1.0)
    np.testing.assert_allclose(result.d_mean, first.value, rtol=1e-10)
    np.testing.assert_allclose(result.d_variance, second.value / 2, rtol=1e-10)
    message = result.message(0.0)
    assert message == (result.d_mean, result.d_variance)


def test_the_message_is_the_derivative_in_the_mean_parameters():
    result = expectation(lambda f: 3 * f - 2 * f**2, 1.7, 0.6)
    np.testing.assert_allclose(result.message(1.7), (3.0, -2.0), rtol=1e-12)


def test_errors():
    with pytest.raises(ArithmeticError, match="kinks"):
        expectation(lambda f: np.sign(f - 0.1234), 0.0, 1.0)
    with np.errstate(over="ignore"), pytest.raises(ValueError, match="half_width"):
        expectation(np.exp, 0.0, 30.0)


def test_joint_moments_of_a_tilted_gaussian() -> None:
    """E[f^2 exp(g)] = exp(m2 + v2 / 2) ((m1 + c)^2 + v1) and its derivatives, g tilting f by c."""
    m1, m2, v1, v2, c = 0.3, -0.4, 0.25, 0.16, 0.12
    found = joint_expectation(lambda f, g: f**2 * np.exp(g), [m1, m2], [[v1, c], [c, v2]])
    mass, tilted = np.exp(m2 + v2 / 2), m1 + c
    value = mass * (tilted**2 + v1)
    assert found.value == pytest.approx(value, rel=1e-12)
    assert found.d_mean == pytest.approx([2 * mass * tilted, value], rel=1e-10)
    # An off-diagonal entry is half the derivative in the covariance, which stands there twice.
    slopes = [[mass, mass * tilted], [mass * tilted, value / 2]]
    assert found.d_covariance == pytest.approx(np.array(slopes), rel=1e-9)


def test_a_joint_integrand_with_a_kink_is_refused() -> None:
    with pytest.raises(ArithmeticError):
        joint_expectation(lambda f, g: np.abs(f - 0.1), [0, 0], np.eye(2), finest=0.2)
