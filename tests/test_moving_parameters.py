# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A `pyro.param` that the optimiser moves: `fit` does not certify it, and goes on."""

import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR, errors
from pyro_blr.guides import AutoNatural
from pyro_blr.sampling import MOST_DRAWS, SAMPLED_TOL

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")

ROWS, STEPS = 40, 120


def _data() -> tuple[Tensor, Tensor]:
    x = torch.linspace(-1, 1, ROWS)
    noise = torch.randn(ROWS, generator=torch.Generator().manual_seed(1))
    return x, torch.sin(1.5 * x) + 0.5 + 0.3 * noise


def _offset() -> Tensor:
    return pyro.param("b", torch.tensor(0.3))


def linear(x: Tensor, y: Tensor) -> None:
    b = _offset()
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", ROWS):
        pyro.sample("y", dist.Normal(w * x + b, 0.3), obs=y)


def wave(x: Tensor, y: Tensor) -> None:
    """A factor of three latents in a vector, at draws."""
    b = _offset()
    z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
    with pyro.plate("data", ROWS):
        loc = torch.sin(z[0] * x) + 0.3 * torch.tanh(z[1]) * torch.cosh(0.3 * z[2]) + b
        pyro.sample("y", dist.Normal(loc, 0.3), obs=y)


def network(x: Tensor, y: Tensor) -> None:
    b = _offset()
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    v = pyro.sample("v", dist.Normal(0.0, 1.0).expand([4]).to_event(1))
    with pyro.plate("data", ROWS):
        loc = torch.tanh(x.unsqueeze(-1) * w) @ v + b
        pyro.sample("y", dist.Normal(loc, 0.3), obs=y)


def rows(x: Tensor, y: Tensor) -> None:
    b = _offset()
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", ROWS, subsample_size=ROWS // 2) as some:
        pyro.sample("y", dist.Normal(w * x[some] + b, 0.3), obs=y[some])


CASES: dict[str, tuple[Callable[..., None], dict[str, Any]]] = {
    "deterministic": (linear, {}),
    "sampled": (wave, {}),
    "network": (network, {}),
    "gauss_newton": (network, {"estimator": "gauss_newton", "num_draws": 64}),
    "minibatches": (rows, {}),
}


def _fit(case: str, tol: float | None = None, **options: Any) -> tuple[BLR, Any]:
    model, own = CASES[case]
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    blr = BLR(model, AutoNatural(model), **own, **options)
    return blr, blr.fit(*_data(), max_steps=STEPS, tol=tol)


@pytest.mark.parametrize("case", CASES)
def test_the_optimum_over_a_moving_parameter_is_not_certified(case: str) -> None:
    """A tolerance that q alone meets soon: what is not known is the parameter's optimum."""
    _, fit = _fit(case, tol=1.0)
    assert not fit.converged
    assert fit.gap == math.inf
    assert fit.steps == STEPS
    assert math.isfinite(fit.residual)
    assert fit.reason.startswith(
        f"max_steps={STEPS} reached; not certified: the optimum over ['b'] is not known. Mend: "
    )
    assert 'params="em"' in fit.reason


def test_draws_grow_no_further_than_their_error_asks() -> None:
    """The optimiser's gradient is of the same draws, so they are as many as q needs, no more."""
    counts = {tol: _fit("network", tol)[0].sampling.count for tol in (0.1, SAMPLED_TOL)}
    assert counts[0.1] < counts[SAMPLED_TOL] < MOST_DRAWS / 4


def test_a_fit_moves_a_parameter_as_steps_do() -> None:
    """Draws are renewed where a loop of steps renews them."""
    _, fit = _fit("sampled")
    found = float(pyro.param("b"))
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    blr = BLR(wave, AutoNatural(wave))
    losses = [blr.step(*_data()) for _ in range(STEPS)]
    assert float(pyro.param("b")) == pytest.approx(found, abs=1e-12)
    assert losses[-1] == pytest.approx(fit.losses[-1], abs=1e-10)


def test_a_parameter_without_an_m_step_is_named_under_em() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        b = pyro.param("b", torch.tensor(0.3))
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([3]).to_event(1))
        with pyro.plate("data", ROWS):
            loc = torch.sin(z[0] * x) * torch.tanh(b * z[1]) + torch.cosh(0.3 * z[2])
            pyro.sample("y", dist.Normal(loc, 0.3), obs=y)

    blr = BLR(model, AutoNatural(model), params="em")
    fit = blr.fit(*_data(), max_steps=STEPS)
    assert not fit.converged
    assert fit.steps == STEPS
    assert "the optimum over ['b'] is not known. Mend: explain says why" in fit.reason


def test_beside_an_exact_q_the_optimiser_follows_the_evidence() -> None:
    """The gradient is the one after the step: that of log p(y), not of the bound at the last q."""
    y = torch.tensor([0.5, 1.0, -0.3, 2.0], dtype=torch.float64)

    def evidence(width: Tensor) -> Tensor:
        covariance = width.square() + torch.eye(4, dtype=torch.float64)
        return dist.MultivariateNormal(torch.zeros(4).double(), covariance).log_prob(y)

    def model(y: Tensor) -> None:
        width = pyro.param("width", torch.tensor(3.0).double())
        z = pyro.sample("z", dist.Normal(torch.tensor(0.0).double(), 1.0))
        with pyro.plate("data", 4):
            pyro.sample("y", dist.Normal(width * z, 1.0), obs=y)

    width = torch.tensor(3.0).double().requires_grad_()
    for step_size in ("auto", 1.0):
        pyro.clear_param_store()
        blr = BLR(model, AutoNatural(model), pyro.optim.Adam({"lr": 0.1}), step_size=step_size)
        with torch.no_grad():
            width.fill_(3.0)
        adam = torch.optim.Adam([width], lr=0.1)
        for _ in range(10):
            blr.step(y)
            adam.zero_grad()
            (-evidence(width)).backward()
            adam.step()
            found = pyro.param("width").detach()
            assert float(found) == pytest.approx(float(width.detach()), abs=1e-10)


def test_a_step_to_where_the_elbo_is_infinite_moves_no_parameter() -> None:
    """At a given size q may go where exp overflows: there is no gradient after such a step."""

    def counts(y: Tensor) -> None:
        a = pyro.param("a", torch.tensor(0.0))
        z = pyro.sample("z", dist.Normal(0.0, 100.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Poisson((z + a).exp()), obs=y)

    blr = BLR(counts, AutoNatural(counts), step_size=1.0)
    blr.step(torch.tensor([1e6, 2e6]))
    assert pyro.param("a").item() == 0.0
    with pytest.raises(errors.NonFiniteError, match="'y'"):
        blr.step(torch.tensor([1e6, 2e6]))


def test_a_gradient_that_is_not_finite_is_an_error_that_names_the_parameter() -> None:
    """The loss is finite, so that the optimiser would make the parameter NaN unnoticed."""

    def model(y: Tensor) -> None:
        fine, wrong = pyro.param("fine", torch.ones(2)), pyro.param("wrong", torch.tensor(0.0))
        z = pyro.sample("z", dist.Normal(fine.sum(), 1.0))
        pyro.factor("penalty", -wrong.abs().sqrt())
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    blr = BLR(model, AutoNatural(model))
    before = blr.evaluate_loss(torch.ones(3))
    with pytest.raises(errors.NonFiniteError, match=r"parameter 'wrong'.*Mend"):
        blr.step(torch.ones(3))
    assert blr.num_steps == 0
    assert blr.evaluate_loss(torch.ones(3)) == before
    assert (pyro.param("fine") == 1).all() and pyro.param("wrong").item() == 0.0
