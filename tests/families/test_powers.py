# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""E[z^power]: against quadrature of the density, where it diverges, and its derivative."""

import math

import mpmath
import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from pyro_blr.families import Beta, Dirichlet, Gamma
from tests.families.contract import ROWS, Row

WITH_POWERS = [(row, power) for row in ROWS for power in row.powers]


def by_quadrature(row: Row, natural: tuple[Tensor, ...], power: float) -> Tensor:
    """E[z^power] by the trapezoidal rule in u = log z or logit z, where it converges exponentially.

    The step cancels in the ratio of two integrals of the same, unnormalised, density of u.
    """
    if row.family.name in ("Gamma", "InverseGamma"):
        # z^a exp(-b z), or z^-a exp(-b / z); exp(40) is far beyond every quantile.
        sign = 1.0 if row.family.name == "Gamma" else -1.0
        log_z = sign * torch.arange(-500.0, 40.0, 0.0025, dtype=torch.float64)
        log_weight = (natural[0] + 1).unsqueeze(-1) * log_z
        log_weight = log_weight + natural[1].unsqueeze(-1) * (sign * log_z).exp()
    elif row.family.name == "Exponential":
        log_z = torch.arange(-500.0, 40.0, 0.0025, dtype=torch.float64)
        log_weight = log_z + natural[0].unsqueeze(-1) * log_z.exp()
    elif row.family.name == "LogNormal":
        log_z = torch.arange(-500.0, 500.0, 0.0025, dtype=torch.float64)
        log_weight = natural[0].unsqueeze(-1) * log_z + natural[1].unsqueeze(-1) * log_z**2
    else:
        # z^a (1 - z)^rest; an element of a Dirichlet is a Beta.
        u = torch.arange(-500.0, 500.0, 0.0025, dtype=torch.float64)
        log_z, log_rest = logsigmoid(u), logsigmoid(-u)
        a = natural[0] + 1
        rest = natural[1] + 1 if row.family.name == "Beta" else a.sum(-1, keepdim=True) - a
        log_weight = a.unsqueeze(-1) * log_z + rest.unsqueeze(-1) * log_rest
    log_moment = torch.logsumexp(log_weight + power * log_z, -1) - torch.logsumexp(log_weight, -1)
    return log_moment.exp()


@pytest.mark.parametrize(
    ("row", "power"), WITH_POWERS, ids=lambda v: v.family.name if isinstance(v, Row) else str(v)
)
def test_against_quadrature(row, power):
    natural = row.random((4,))
    moment = row.family.expected_power(natural, power)
    assert moment.shape == row.family.distribution(natural).sample().shape
    expected = by_quadrature(row, natural, power)
    # The integrand falls as exp(exponent u) towards u = -500: 0.1 leaves exp(-50) there.
    exponent = {
        "InverseGamma": -(natural[0] + 1 + power),
        "Exponential": torch.full_like(natural[0], 1 + power),
        "LogNormal": torch.full_like(natural[0], math.inf),
    }.get(row.family.name, natural[0] + 1 + power)
    reliable = exponent > 0.1
    assert bool(reliable.any())
    torch.testing.assert_close(moment[reliable], expected[reliable], rtol=1e-10, atol=0.0)
    assert torch.equal(moment.isinf(), exponent <= 0)


@pytest.mark.parametrize("row", [r for r in ROWS if r.powers], ids=lambda row: row.family.name)
@pytest.mark.parametrize("power", [1.0, -1.0, 0.5, -0.5, 3.7])
def test_gradient(row, power):
    # Shapes of 2 (InverseGamma: 4) and more, so that every moment exists.
    natural = tuple(n + 2 if bool((n > -1).all()) else n for n in row.random((3,)))
    if row.family.name == "InverseGamma":
        natural = natural[0] - 4, natural[1]
    if row.family.name == "Exponential" and power == -1.0:  # its shape is 1
        assert bool(row.family.expected_power(natural, power).isinf().all())
        return
    free = tuple(n.clone().requires_grad_() for n in natural)
    assert torch.autograd.gradcheck(lambda *n: row.family.expected_power(n, power), free)


def test_a_divergent_element_does_not_spoil_the_gradient_of_the_others():
    shape = torch.tensor([0.4, 3.0], dtype=torch.float64).requires_grad_()
    moment = Gamma().expected_power((shape - 1, -torch.ones(2, dtype=torch.float64)), -0.5)
    assert math.isinf(moment[0])
    (gradient,) = torch.autograd.grad(moment[1], shape)
    assert bool(gradient.isfinite().all())
    a, b = shape - 1, torch.zeros(2, dtype=torch.float64)
    moment = Beta().expected_power((a, b), -0.5)
    assert math.isinf(moment[0])
    (gradient,) = torch.autograd.grad(moment[1], shape)
    assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("power", [0.5, -0.5, 2.5, 1.0, -1.0])
def test_concentrated(power):
    shape = torch.tensor(1e8, dtype=torch.float64)
    p = mpmath.mpf(power)
    with mpmath.workdps(60):
        a, b = mpmath.mpf(1e8), mpmath.mpf(3e8)
        gamma = float(mpmath.exp(mpmath.loggamma(a + p) - mpmath.loggamma(a)) * b**-p)
        beta = float(
            mpmath.exp(
                mpmath.loggamma(a + p)
                - mpmath.loggamma(a)
                + mpmath.loggamma(a + b)
                - mpmath.loggamma(a + b + p)
            )
        )
    natural = (shape - 1, 3 * shape - 1)
    dirichlet = Dirichlet().expected_power((torch.stack(natural),), power)[0]
    assert abs(Gamma().expected_power((natural[0], -3 * shape), power).item() / gamma - 1) < 1e-14
    assert abs(Beta().expected_power(natural, power).item() / beta - 1) < 1e-14
    assert abs(dirichlet.item() / beta - 1) < 1e-14


@pytest.mark.parametrize("row", [r for r in ROWS if not r.powers], ids=lambda row: row.family.name)
def test_none_without_a_closed_form(row):
    assert row.family.expected_power(row.random(), 0.5) is None
