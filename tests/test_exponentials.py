# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Polynomials times exponentials of jointly Gaussian scalars: exact, against Gaussian integrals."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from pyro_blr.families import MultivariateNormal
from pyro_blr.lifting.block_moments import moments_of
from pyro_blr.lifting.blocks import Block, Placement
from pyro_blr.lifting.expectation import compile_plan
from pyro_blr.lifting.polynomial import Polynomial, leaf, polynomial
from pyro_blr.lifting.terms import LatentSite, NotPolynomial
from tests.checks import engine, factor_of

MEAN = torch.tensor([0.3, -0.5, 0.2])
ROOT = torch.tensor([[0.6, 0.0, 0.0], [0.3, 0.5, 0.0], [-0.2, 0.1, 0.4]])
X = torch.tensor([[1.0, 0.5, -0.3], [0.2, -1.0, 0.6]])

SITE = LatentSite("w", (3,), 1, True)
BLOCK = Block("w", MultivariateNormal(), (SITE,), (), 3, {"w": Placement(())})

#: A rule that is exact to rounding for these moments: 60 Gauss-Hermite nodes a dim.
ONE, WEIGHT = (torch.as_tensor(a) for a in hermegauss(60))
NODES = MEAN + torch.cartesian_prod(ONE, ONE, ONE) @ ROOT.T
WEIGHTS = torch.cartesian_prod(WEIGHT, WEIGHT, WEIGHT).prod(-1)
WEIGHTS = WEIGHTS / WEIGHTS.sum()

Expression = Callable[..., object]


def _linear(w: object, rows: Tensor) -> object:
    if isinstance(w, Polynomial):
        return (polynomial(rows) * w).sum((-1,))
    return w @ rows.T  # type: ignore[operator]


CASES: dict[str, Expression] = {
    "square": lambda f, g: f * f,
    "cube": lambda f, g: f**3,
    "degree four": lambda f, g: f * f * (f * f),
    "degree six": lambda f, g: (f * f * f) * (f * f * f),
    "mass": lambda f, g: f.exp(),
    "negative power of a mass": lambda f, g: f.exp() ** -2.0,
    "product of masses": lambda f, g: f.exp() * (g * 0.5).exp(),
    "masses that cancel": lambda f, g: f.exp() * (f * -1.0).exp(),
    "log of a mass": lambda f, g: (f.exp() ** 1.5 * 3.0).log(),
    "tilted mean": lambda f, g: f * g.exp(),
    "tilted square": lambda f, g: (f - 0.7) * (f - 0.7) * (g * -2.0).exp(),
    "tilted cube": lambda f, g: f * f * f * (f * 0.3).exp(),
    "exponent with a constant": lambda f, g: g * (f * 0.5 + 0.25).exp(),
    "normal with latent location and log-scale": lambda f, g: (
        (f - 0.4) * (f - 0.4) * (g * -2.0).exp() * -0.5 - g
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_moment_equals_the_integral(name: str) -> None:
    precision = (ROOT @ ROOT.T).inverse()
    moments = {BLOCK: moments_of(BLOCK, (precision @ MEAN, -precision / 2))}
    w = leaf(SITE)
    found = CASES[name](_linear(w, X), _linear(w, X.flip(0)))
    assert isinstance(found, Polynomial)
    value, _ = compile_plan(found, {"w": BLOCK}).evaluate(moments)
    points = CASES[name](_linear(NODES, X), _linear(NODES, X.flip(0)))
    assert isinstance(points, Tensor)
    expected = WEIGHTS @ points
    assert torch.allclose(value.detach(), expected, rtol=1e-10, atol=1e-11)
    total, _ = compile_plan(found.sum_all(), {"w": BLOCK}).evaluate(moments)
    assert torch.allclose(total.detach(), expected.sum(), rtol=1e-10, atol=1e-11)


def test_degrees_beyond_the_limit_say_so() -> None:
    w = leaf(SITE)
    with pytest.raises(NotPolynomial, match="degree 8 in w"):
        compile_plan((w * w) * (w * w) * ((w * w) * (w * w)), {"w": BLOCK})


@pytest.mark.parametrize("rows", [2, 3, 40])
def test_evidence_with_more_columns_than_rows(rows: int) -> None:
    """``X'X`` is larger than X there, so that X is not multiplied out: still one sum over rows."""
    columns = 20
    generator = torch.Generator().manual_seed(rows)
    design = torch.randn(rows, columns, generator=generator)
    y = torch.randn(rows, generator=generator)

    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(columns), 1.0).to_event(1))
        with pyro.plate("data", rows):
            pyro.sample("y", dist.Normal(design @ w, 0.5), obs=y)

    blr, _ = engine(model, {})
    blr.step()
    covariance = design @ design.T + 0.25 * torch.eye(rows)
    evidence = dist.MultivariateNormal(torch.zeros(rows), covariance).log_prob(y)
    assert -blr.info.loss_after == pytest.approx(float(evidence), rel=1e-10)


def test_location_and_log_scale_regressions_are_exact_together() -> None:
    generator = torch.Generator().manual_seed(0)
    design = torch.randn(30, 3, generator=generator)
    y = torch.randn(30, generator=generator)

    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        v = pyro.sample("v", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("data", 30):
            pyro.sample("y", dist.Normal(design @ w, (design @ v).exp()), obs=y)

    blr, _ = engine(model, {})
    assert factor_of(blr, "y").tier == "exact"
    fit = blr.fit()
    assert fit.converged
    assert fit.losses == sorted(fit.losses, reverse=True)
