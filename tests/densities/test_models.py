# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Whole models whose posterior or expectation has a closed form."""

import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import transforms

from pyro_blr import BLR, families
from pyro_blr.guides import AutoNatural
from pyro_blr.lifting import constants
from pyro_blr.lifting.transforms import inverse
from tests.checks import engine, expected_log_joint, tiers

X = torch.sin(torch.arange(36.0) ** 2).reshape(12, 3)
Y = torch.cos(torch.arange(12.0)) + X[:, 0]


def test_flat_prior_gives_the_least_squares_posterior_in_one_step() -> None:
    """The posterior under ImproperUniform is Normal(least squares, noise^2 (X'X)^-1)."""

    def model() -> None:
        w = pyro.sample("w", dist.ImproperUniform(constraints.real_vector, (), (3,)))
        with pyro.plate("data", 12):
            pyro.sample("y", dist.Normal(X @ w, 0.5), obs=Y)

    blr, guide = engine(model)
    blr.step()
    found = guide.marginal("w")
    covariance = 0.25 * torch.linalg.inv(X.T @ X)
    assert torch.allclose(found.mean, torch.linalg.lstsq(X, Y).solution, rtol=1e-10, atol=0)
    assert torch.allclose(found.covariance_matrix, covariance, rtol=1e-10, atol=1e-14)


def test_student_t_as_a_scale_mixture_is_exact() -> None:
    """A precision per datum: q of each is the Gamma that coordinate ascent writes down."""

    def model() -> None:
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", 12):
            tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
            pyro.sample("y", dist.Normal(loc, tau.rsqrt()), obs=Y)

    blr, guide = engine(model)
    for _ in range(40):
        blr.step()
    assert set(tiers(blr).values()) == {"exact"}
    loc, tau = guide.marginal("loc"), guide.marginal("tau")
    residual = (Y - loc.mean) ** 2 + loc.variance
    assert torch.allclose(tau.concentration, torch.full((12,), 2.5), rtol=1e-10)
    assert torch.allclose(tau.rate, 2 + residual / 2, rtol=1e-8)
    precision = 0.01 + tau.mean.sum()
    assert torch.allclose(loc.variance, 1 / precision, rtol=1e-8)
    assert torch.allclose(loc.mean, (tau.mean * Y).sum() / precision, rtol=1e-8)


class Cumulative(transforms.Transform):
    """A user's own transform: the cumulative sum along the last dim."""

    domain = codomain = constraints.real_vector
    bijective = True

    def _call(self, x: Tensor) -> Tensor:
        return x.cumsum(-1)

    def _inverse(self, y: Tensor) -> Tensor:
        return torch.cat([y[..., :1], y[..., 1:] - y[..., :-1]], -1)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return x.new_zeros(x.shape[:-1])


def _walk_by_transform() -> Tensor:
    steps = dist.Normal(torch.zeros(12), 0.5).to_event(1)
    return pyro.sample("z", dist.TransformedDistribution(steps, [Cumulative()]))


def _walk_by_factor() -> Tensor:
    z = pyro.sample("z", dist.ImproperUniform(constraints.real, (), (12,)))
    pyro.factor("first", dist.Normal(0.0, 0.5).log_prob(z[0]))
    pyro.factor("steps", dist.Normal(0.0, 0.5).log_prob(z[1:] - z[:-1]).sum())
    return z


def _walk_by_observed_latents() -> Tensor:
    z = pyro.sample("z", dist.ImproperUniform(constraints.real, (), (12,)))
    pyro.sample("first", dist.Normal(0.0, 0.5), obs=z[0])
    with pyro.plate("steps_plate", 11):
        pyro.sample("steps", dist.Normal(z[:-1], 0.5), obs=z[1:])
    return z


@pytest.mark.parametrize("walk", [_walk_by_transform, _walk_by_factor, _walk_by_observed_latents])
def test_random_walks_are_exact(walk: Any) -> None:
    """The posterior of a walk is the Gaussian of precision D'D / 0.5^2 + 1, in one step."""

    def model() -> None:
        z = walk()
        with pyro.plate("data", 12):
            pyro.sample("y", dist.Normal(z, 1.0), obs=Y)

    blr, guide = engine(model)
    blr.step()
    assert set(tiers(blr).values()) == {"exact"}
    difference = torch.eye(12) - torch.diag(torch.ones(11), -1)
    precision = difference.T @ difference * 4 + torch.eye(12)
    found = guide.marginal("z")
    assert torch.allclose(found.precision_matrix, precision, rtol=1e-10, atol=1e-10)
    assert torch.allclose(found.mean, torch.linalg.solve(precision, Y), rtol=1e-9)


@pytest.mark.parametrize("law", [dist.LKJCholesky, dist.LKJ])
@pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")
def test_correlations_are_fitted_by_draws(law: Any) -> None:
    """Pyro's transform writes in place; it is one recorded call, and ``explain`` names it."""

    def model() -> None:
        c = pyro.sample("c", law(3, 2.0))
        root = c if law is dist.LKJCholesky else torch.linalg.cholesky(c)
        with pyro.plate("data", 12):
            pyro.sample("y", dist.MultivariateNormal(torch.zeros(3), scale_tril=root), obs=X)

    blr, guide = engine(model, step_size=0.1)
    factors = {f.site: f for f in blr.explain().factors}
    assert factors["c"].tier == factors["y"].tier == "sampled"
    assert law.__name__ in factors["c"].reason or "LKJCholesky" in factors["c"].reason
    assert all(math.isfinite(blr.step()) for _ in range(5))
    draw = guide.sample_posterior(4)["c"]
    assert bool(
        constraints.corr_matrix.check(draw @ draw.mT if law is dist.LKJCholesky else draw).all()
    )


def test_a_prior_made_by_the_guides_own_transform_has_the_density_of_its_base() -> None:
    """q of a logit-normal latent is then its prior, exactly, without any likelihood."""
    logit_normal = dist.TransformedDistribution(
        dist.Normal(torch.tensor([0.3, -1.0]), 0.7), [transforms.SigmoidTransform()]
    )

    def model() -> None:
        pyro.sample("p", logit_normal.to_event(1))

    blr, guide = engine(model, families={"p": families.MultivariateNormal})
    loss = [blr.step() for _ in range(2)][-1]
    assert tiers(blr) == {"p": "exact"}
    assert abs(loss) < 1e-12  # KL(q, prior)
    inner = guide.marginal("p").base_dist
    assert torch.allclose(inner.mean, torch.tensor([0.3, -1.0]), rtol=1e-12)


def test_factor_with_a_lifted_argument_is_exact() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        pyro.factor("extra", tau * z - 0.5 * z**2)

    q = {
        "z": dist.Normal(torch.tensor(0.4), torch.tensor(0.5)),
        "tau": dist.Gamma(torch.tensor(3.0), torch.tensor(2.0)),
    }
    blr, _ = engine(model, q, families={"tau": families.Gamma}, blocks="site")
    assert tiers(blr)["extra"] == "exact"
    second = 0.4**2 + 0.25
    mean_log = torch.digamma(torch.tensor(3.0)) - math.log(2.0)
    expected = 1.5 * 0.4 - 0.5 * second - 0.5 * second - 0.5 * math.log(2 * math.pi)
    expected = expected + mean_log - 1.5
    assert torch.allclose(expected_log_joint(blr, q), expected, rtol=1e-12)


def test_data_go_through_a_constant_transform_once() -> None:
    """The inverse of recognised data is recognised too: the plan of a trace serves the next."""
    data = torch.linspace(0.1, 2.0, 500)
    cache = constants.ConstantCache()
    with constants.using(cache):
        first = inverse(transforms.ExpTransform(), data)
        cache.next_trace()
        assert inverse(transforms.ExpTransform(), data) is first
        data += 1.0
        cache.next_trace()
        assert torch.equal(inverse(transforms.ExpTransform(), data), data.log())
        affine = transforms.AffineTransform(torch.tensor(1.0), 2.0)
        other = transforms.AffineTransform(torch.tensor(1.5), 2.0)
        assert not torch.equal(inverse(affine, data), inverse(other, data))


def test_prototype_of_an_improper_prior_starts_inside_its_support() -> None:
    def model() -> None:
        pyro.sample("tau", dist.ImproperUniform(constraints.positive, (), ()))
        pyro.factor("law", torch.zeros(()))

    guide = AutoNatural(model, families={"tau": families.Normal})
    BLR(model, guide).guide()
    assert float(guide.median()["tau"]) == pytest.approx(1.0)
