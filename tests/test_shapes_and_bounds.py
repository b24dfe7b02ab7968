# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Models that would be fitted to something else than was meant are refused, with the mend."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions.transforms import AffineTransform, SigmoidTransform
from torch import Tensor

from pyro_blr import errors
from tests.checks import engine, factor_of

X = torch.cos(torch.arange(24.0)).reshape(12, 2)
Y = X[:, 0] + 0.1


def column_beside_row() -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(1, 2), 1.0).to_event(2))
    with pyro.plate("data", 12):
        pyro.sample("y", dist.Normal(torch.nn.functional.linear(X, w), 1.0), obs=Y)


def angle() -> None:
    z = pyro.sample("z", dist.VonMises(0.0, 1.0))
    pyro.sample("y", dist.Normal(z.cos(), 1.0), obs=torch.tensor(0.0))


def bounds_behind_an_affine_map() -> None:
    chain = [SigmoidTransform(), AffineTransform(-1.0, 2.0)]
    z = pyro.sample("z", dist.TransformedDistribution(dist.Normal(0.0, 1.0), chain))
    pyro.sample("y", dist.Normal(z, 1.0), obs=torch.tensor(0.3))


def hidden_by_obs_mask() -> None:
    with pyro.plate("data", 12):
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(m, 1.0), obs=Y, obs_mask=Y > 0)


def scale_that_may_be_negative() -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("y", dist.Normal(0.0, 1.0 + 2.0 * z), obs=torch.tensor(0.3))


def probability_on_the_line() -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", 12):
        pyro.sample("y", dist.Bernoulli(X @ w), obs=(Y > 0).double())


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (scale_that_may_be_negative, errors.ParameterError, ("'y'", "'z'", "F.softplus")),
        (probability_on_the_line, errors.ParameterError, ("'y'", "'w'", "torch.sigmoid")),
        (column_beside_row, errors.ShapeError, ("'y'", "(12, 12)", ".squeeze(-1)")),
        (angle, errors.GuideError, ("'z'", "torch.atan2")),
        (bounds_behind_an_affine_map, errors.GuideError, ("'z'", "SigmoidTransform")),
        (hidden_by_obs_mask, errors.ImproperPosteriorError, ("y_unobserved", "poutine.mask")),
    ],
)
def test_it_is_refused(
    model: Callable[[], None], error: type[Exception], words: tuple[str, ...]
) -> None:
    blr, _ = engine(model)
    with pytest.raises(error) as caught:
        blr.step()
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("log_link", ["sum", "product"])
def test_terms_of_one_exponent_share_a_block(log_link: str) -> None:
    x = X[:, 1] + 5
    counts = (0.3 * x).exp().floor()

    def apart(x: Tensor) -> None:
        b = pyro.sample("b", dist.Normal(0.0, 3.0))
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        rate = (b + w * x).exp() if log_link == "sum" else b.exp() * (w * x).exp()
        with pyro.plate("data", 12):
            pyro.sample("y", dist.Poisson(rate), obs=counts)

    def together(x: Tensor) -> None:
        prior = dist.Normal(torch.zeros(2), torch.tensor([3.0, 1.0])).to_event(1)
        z = pyro.sample("z", prior)
        with pyro.plate("data", 12):
            pyro.sample("y", dist.Poisson((z[0] + z[1] * x).exp()), obs=counts)

    losses = []
    for model in (apart, together):
        blr, _ = engine(model)
        assert blr.fit(x).converged
        losses.append(blr.evaluate_loss(x))
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.parametrize("prior", ["Uniform", "StudentT"])
def test_a_latent_less_its_location_is_one_scalar(prior: str) -> None:
    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        uniform = prior == "Uniform"
        tau = pyro.sample("tau", dist.Uniform(0.0, 20.0) if uniform else dist.HalfNormal(5.0))
        law = dist.Normal(mu, tau) if uniform else dist.StudentT(4.0, mu, tau)
        with pyro.plate("groups", 12):
            theta = pyro.sample("theta", law)
            pyro.sample("y", dist.Normal(theta, 1.0), obs=3 * Y)

    blr, _ = engine(model, on_sampled="error")
    assert factor_of(blr, "theta").tier == "quadrature"
    assert blr.fit().converged


def test_quad_tol_decides_what_is_sampled() -> None:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", 12):
            pyro.sample("y", dist.Laplace(X[:, 0] * w, 0.3), obs=Y)

    start = {"w": dist.Normal(1.0, 0.3)}
    strict, _ = engine(model, start, on_sampled="ignore", quad_tol=1e-13)
    loose, _ = engine(model, start, quad_tol=1e-4)
    assert factor_of(strict, "y").tier == "sampled"
    assert factor_of(loose, "y").tier == "quadrature"
    assert 1e-13 < factor_of(loose, "y").error <= 1e-4
    with pytest.raises(errors.ArgumentError, match="quad_tol"):
        engine(model, quad_tol=0.0)
