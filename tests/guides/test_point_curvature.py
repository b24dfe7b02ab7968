# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A point mass is converged at a maximum of the log joint only: no saddle, no inflection."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import JitTrace_ELBO, TraceMeanField_ELBO
from pyro.infer import autoguide as auto
from scipy.optimize import minimize
from torch import Tensor

from pyro_blr import BLR

Density = Callable[[Tensor], Tensor]


def joint(density: Density, size: int) -> Callable[[], None]:
    """A model whose log joint is that of a standard normal prior and a log density."""

    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))
        pyro.factor("f", density(z))

    return model


def at(value: Tensor) -> Any:
    return auto.init_to_value(values={"z": value})


def curvature(guide: Any) -> tuple[Tensor, Tensor]:
    """The gradient and the Hessian of minus the log joint at the point of an AutoDelta."""
    z = guide.median()["z"].detach().requires_grad_()

    def minus(z: Tensor) -> Tensor:
        conditioned = poutine.condition(guide.model, data={"z": z})
        return -poutine.trace(conditioned).get_trace().log_prob_sum()

    (gradient,) = torch.autograd.grad(minus(z), z)
    return gradient, torch.autograd.functional.hessian(minus, z)


def well(size: int, seed: int) -> Density:
    """Wells at plus and minus 1 along each axis, which a random form couples and tilts."""
    generator = torch.Generator().manual_seed(seed)
    tilt = 0.3 * torch.randn(size, generator=generator)
    form = 0.2 * torch.randn(size, size, generator=generator)
    return lambda z: -(5 * (z**2 - 1) ** 2).sum() - z @ form @ z + tilt @ z


def waves(size: int, seed: int) -> Density:
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(3 * size, size, generator=generator)
    y = torch.randn(3 * size, generator=generator)
    return lambda z: -2 * (torch.sin(2 * matrix @ z) - y).square().sum()


def logistic(size: int, seed: int) -> Density:
    """Concave; with scales from 1e-4 to 1e4."""
    generator = torch.Generator().manual_seed(seed)
    matrix = torch.randn(50, size, generator=generator) * torch.logspace(-4, 4, size)
    sign = 2.0 * torch.randint(2, (50,), generator=generator) - 1
    return lambda z: torch.nn.functional.logsigmoid(sign * (matrix @ z)).sum()


KINDS = {"wells": well, "waves": waves, "logistic": logistic}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("kind", KINDS)
def test_converged_is_at_a_maximum(kind: str, size: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(100 + seed)
    start = 3 * torch.randn(size, generator=generator) * (seed > 0)
    model = joint(KINDS[kind](size, seed), size)
    guide = auto.AutoDelta(model, init_loc_fn=at(start))
    fit = BLR(model, guide).fit(max_steps=300, tol=1e-9)
    assert fit.converged, fit
    gradient, hessian = curvature(guide)
    scale = hessian.diagonal().sqrt()
    assert float(torch.linalg.eigvalsh(hessian / scale / scale[:, None])[0]) > 0
    assert float(gradient @ torch.linalg.solve(hessian, gradient)) / 2 < 1e-8
    assert_no_lower_nearby(guide, fit.losses[-1], concave=kind == "logistic")


def assert_no_lower_nearby(guide: Any, loss: float, concave: bool) -> None:
    """An independent optimiser from the point, or from anywhere if the log joint is concave."""
    point = guide.median()["z"].detach()

    def minus(z: Any) -> tuple[float, Any]:
        leaf = torch.as_tensor(z).requires_grad_()
        conditioned = poutine.condition(guide.model, data={"z": leaf})
        value = -poutine.trace(conditioned).get_trace().log_prob_sum()
        (gradient,) = torch.autograd.grad(value, leaf)
        return float(value.detach()), gradient.numpy()

    start = torch.zeros_like(point) if concave else point
    found = minimize(minus, start.numpy(), jac=True, method="BFGS")
    assert loss <= found.fun + 1e-6


@pytest.mark.parametrize("kind", [auto.AutoDelta, auto.AutoLaplaceApproximation])
@pytest.mark.parametrize("size", [1, 2, 5, 300])
def test_a_saddle_is_left(kind: Any, size: int) -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(size), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z**2, 0.3).to_event(1), obs=torch.full((size,), 2.0))

    guide = kind(model, init_loc_fn=auto.init_to_mean)
    fit = BLR(model, guide).fit()
    assert fit.converged
    z = guide()["z"]
    # -z^2/2 - (z^2 - 2)^2 / (2 0.09) is largest at z^2 = 2 - 0.09 / 2.
    torch.testing.assert_close(z.detach() ** 2, torch.full((size,), 1.955), atol=1e-5, rtol=0)
    if kind is auto.AutoLaplaceApproximation and size < 10:
        laplace = guide.laplace_approximation()
        assert float(laplace.get_posterior().variance[0]) == pytest.approx(0.09 / 4 / 1.955, 1e-4)


def test_a_saddle_whose_gradient_hides_one_direction() -> None:
    """Many elements at their optimum, and one at its local minimum."""
    size = 400

    def model() -> None:
        with pyro.plate("n", size):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z[7] ** 2, 0.3), obs=torch.tensor(2.0))

    guide = auto.AutoDelta(model, init_loc_fn=auto.init_to_mean)
    assert BLR(model, guide).fit().converged
    assert abs(float(guide.median()["z"][7])) == pytest.approx(1.955**0.5, abs=1e-5)


def test_a_ring_of_maxima_is_not_certified() -> None:
    def model() -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("y", dist.Normal((z**2).sum(), 0.3), obs=torch.tensor(2.0))

    guide = auto.AutoDelta(model, init_loc_fn=auto.init_to_mean)
    fit = BLR(model, guide).fit(max_steps=200)
    assert float((guide.median()["z"] ** 2).sum()) == pytest.approx(1.955, abs=1e-4)
    assert not fit.converged
    assert "flat" in fit.reason and "Mend" in fit.reason
    assert fit.steps < 50


def test_an_inflection_is_passed() -> None:
    """Newton's steps towards it are ever shorter, and their decrement ever smaller."""

    def model() -> None:
        z = pyro.sample("z", dist.Uniform(-2.0, 2.0).expand([1]).to_event(1))
        pyro.factor("f", -(z[0] ** 3) - 0.25 * z[0] ** 4)

    start = torch.tensor([1.0])
    guide = auto.AutoDelta(model, init_loc_fn=at(start))
    fit = BLR(model, guide).fit(tol=1e-3, max_steps=100)
    assert float(guide.median()["z"]) < -1.5 or not fit.converged


def test_scales_of_eighteen_orders() -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(200, 4, generator=generator) + torch.tensor([1.0, 0, 0, 0])
    X = torch.cat([X * torch.tensor([1e6, 1.0, 1e-3, 1e3]), torch.ones(200, 1)], -1)
    truth = torch.tensor([1e-6, -1.0, 300.0, 1e-3, 0.5])
    y = torch.bernoulli(torch.sigmoid(X @ truth), generator=generator)

    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 10.0).expand([5]).to_event(1))
        with pyro.plate("n", 200):
            pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y)

    guide = auto.AutoDelta(model)
    fit = BLR(model, guide).fit()
    assert fit.converged
    assert fit.steps < 100
    w = guide.median()["w"].detach()
    gradient = X.T @ (y - torch.sigmoid(X @ w)) - w / 100
    assert float((gradient.abs() / X.abs().amax(0)).max()) < 1e-4


def test_nothing_to_find() -> None:
    def model() -> None:
        pyro.sample("z", dist.Normal(torch.zeros(0), 1.0).to_event(1))

    assert BLR(model, auto.AutoDelta(model)).fit().converged


def test_an_empty_latent_beside_another() -> None:
    def model() -> None:
        pyro.sample("e", dist.Normal(torch.zeros(0), 1.0).to_event(1))
        pyro.sample("z", dist.Normal(1.0, 1.0))

    guide = auto.AutoDelta(model)
    assert BLR(model, guide).fit().converged
    assert float(guide.median()["z"]) == pytest.approx(1.0)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("loss", [JitTrace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_losses_and_precisions(loss: Any, dtype: torch.dtype) -> None:
    X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    y = (X.sum(-1) > 0).to(dtype)

    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(3, dtype=dtype), 2.0).to_event(1))
        with pyro.plate("n", len(X)):
            pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=y)

    guide = auto.AutoDelta(model)
    assert BLR(model, guide, loss=loss(ignore_jit_warnings=True)).fit(tol=1e-5).converged
    w = guide.median()["w"].detach()
    gradient = X.T @ (y - torch.sigmoid(X @ w)) - w / 4
    assert float(gradient.abs().max()) < 1e-3


def test_a_mode_at_a_bound() -> None:
    """There is no maximum in the parameter's coordinates, but the gap to the limit is known."""

    def model() -> None:
        pyro.sample("s", dist.Exponential(1.0))

    guide = auto.AutoDelta(model)
    fit = BLR(model, guide).fit()
    assert fit.converged
    assert 0 < float(guide.median()["s"]) < 2e-6
