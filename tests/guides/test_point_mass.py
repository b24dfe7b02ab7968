# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Point masses take Newton's step on the log joint."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import constraints
from pyro.infer import autoguide as auto
from torch.testing import assert_close

from pyro_blr import BLR
from pyro_blr.steps.newton import newton_step
from tests.guides.scripts import param, positive_param, regression, rows


def ridge(size: int) -> tuple[Any, torch.Tensor]:
    """A model that is quadratic in its latent, and its mode."""
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(2 * size, size, generator=generator)
    y = torch.randn(2 * size, generator=generator)

    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([size]).to_event(1))
        pyro.sample("y", dist.Normal(X @ w, 1.0).to_event(1), obs=y)

    precision = X.T @ X + torch.eye(size)
    return model, torch.linalg.solve(precision, X.T @ y)


@pytest.mark.parametrize(("size", "steps"), [(20, 1), (300, 4)])
def test_a_quadratic_log_joint(size, steps):
    """In one step by the dense Hessian; by conjugate gradients each step leaves 1e-3 of the way."""
    model, mode = ridge(size)
    guide = auto.AutoDelta(model)
    blr = BLR(model, guide)
    for _ in range(steps):
        blr.step()
    assert_close(guide.median()["w"], mode, atol=1e-6, rtol=0)


def test_negative_curvature_still_goes_down():
    """Far out, minus the log of a Student t is concave."""

    def model() -> None:
        z = pyro.sample("z", dist.StudentT(2.0, 0.0, 1.0))
        pyro.sample("y", dist.StudentT(2.0, z, 1.0), obs=torch.tensor(1.0))

    guide = auto.AutoDelta(model, init_loc_fn=auto.init_to_value(values={"z": torch.tensor(20.0)}))
    fit = BLR(model, guide).fit(tol=1e-10)
    assert fit.converged
    assert all(b <= a + 1e-12 for a, b in zip(fit.losses, fit.losses[1:], strict=False))
    assert float(guide.median()["z"]) == pytest.approx(0.5, abs=1e-4)


def test_the_direction_is_that_of_newton_or_descent():
    x = torch.tensor([2.0, -1.0], requires_grad=True)
    found = newton_step((x**4).sum(), [x])
    assert_close(found.direction[0], -x.detach() / 3)
    assert found.gap == pytest.approx(float((4 * x.detach() ** 4).sum()) / 6)
    concave = newton_step(-(x**2).sum(), [x])
    assert concave.gap is None
    assert float((concave.direction[0] * -2 * x.detach()).sum()) < 0


def test_parameters_of_the_model_are_the_optimisers():
    def model(y: torch.Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 10.0))
        scale = positive_param("scale", 2.0)
        with pyro.plate("n", len(y)):
            pyro.sample("y", dist.Normal(m, scale), obs=y)

    y = torch.linspace(1.0, 3.0, 20)
    guide = auto.AutoDelta(model)
    optim = pyro.optim.ClippedAdam({"lr": 0.1, "lrd": 0.99})
    blr = BLR(model, guide, optim)
    fit = blr.fit(y, max_steps=200)
    assert "'scale'" in fit.reason
    explained = blr.explain(y).parameters
    assert (explained["AutoDelta.m"].update, explained["scale"].update) == ("Newton", "optim")
    assert float(pyro.param("scale")) == pytest.approx(float(y.std(correction=0)), rel=1e-2)


def test_a_guide_of_deltas_by_hand():
    def guide(X: torch.Tensor, y: torch.Tensor) -> None:
        pyro.sample("b", dist.Delta(param("at_b", 0.0)))
        pyro.sample("w", dist.Delta(pyro.param("at_w", torch.zeros(2)), event_dim=1))
        tau = pyro.param("at_tau", torch.tensor(1.0), constraint=constraints.positive)
        pyro.sample("tau", dist.Delta(tau))

    by_hand = BLR(regression, guide).fit(*rows())
    automatic = BLR(regression, auto.AutoDelta(regression)).fit(*rows())
    assert by_hand.converged and automatic.converged
    assert by_hand.losses[-1] == pytest.approx(automatic.losses[-1], abs=1e-5)
