# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Point masses on minibatches end near the optimum of all data, by the step size that is asked."""

from collections.abc import Callable, Iterator
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide as auto
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.steps.schedule import StepSize

N = 100
GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(N, 2, generator=GENERATOR)
Y = 2 + 3 * X[:, 0] + torch.randn(N, generator=GENERATOR)
GUIDES = [auto.AutoDelta, auto.AutoLaplaceApproximation]
SCHEDULE: StepSize = lambda step: (step + 2) ** -0.8  # noqa: E731


def rows_are_given(index: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("n", N, subsample=index):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=Y[index])


def batch_is_given(index: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("n", size=N, subsample_size=len(index)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=Y[index])


def scale_is_given(index: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.poutine.scale(scale=N / len(index)), pyro.plate("n", len(index)):
        pyro.sample("y", dist.Normal(mu, 1.0), obs=Y[index])


def rows_are_drawn(index: Tensor) -> None:
    mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
    with pyro.plate("n", N, subsample_size=10) as rows:
        pyro.sample("y", dist.Normal(mu, 1.0), obs=Y[rows])


def epochs(count: int) -> Iterator[Tensor]:
    for _ in range(count):
        yield from torch.arange(N).split(10)


MODE = float(Y.sum() / (N + 0.01))


@pytest.mark.parametrize("kind", GUIDES)
@pytest.mark.parametrize(
    ("model", "size"),
    [
        (rows_are_given, "auto"),
        (batch_is_given, "auto"),
        (rows_are_drawn, "auto"),
        (rows_are_given, SCHEDULE),
        (scale_is_given, SCHEDULE),
        (scale_is_given, 0.05),
        (rows_are_drawn, 0.05),
    ],
)
def test_near_the_mode_of_all_data(kind: Any, model: Any, size: StepSize) -> None:
    pyro.set_rng_seed(0)
    guide = kind(model)
    blr = BLR(model, guide, step_size=size)
    for index in epochs(15):
        blr.step(index)
    # The mean of the last batch is away by about 0.9.
    assert float(guide(index)["mu"]) == pytest.approx(MODE, abs=0.25)


def test_a_regression() -> None:
    """Batches of a logistic regression whose columns have other scales."""
    design = X * torch.tensor([1.0, 1e4])
    label = (Y > 2).double()

    def model(index: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with pyro.plate("n", N, subsample=index):
            pyro.sample("y", dist.Bernoulli(logits=design[index] @ w), obs=label[index])

    whole, guide = auto.AutoDelta(model), auto.AutoDelta(model)
    assert BLR(model, whole).fit(torch.arange(N)).converged
    mode = whole.median(torch.arange(N))["w"].detach().clone()
    pyro.clear_param_store()
    blr = BLR(model, guide)
    for _ in range(25):
        for index in torch.randperm(N).split(20):
            blr.step(index)
    scaled = (guide.median(index)["w"].detach() - mode) * torch.tensor([1.0, 1e4])
    assert float(scaled.abs().max()) < 0.5


def test_local_latents_of_the_rows() -> None:
    """Each row's own latent is at its optimum given the mean, also of rows that are seen rarely."""

    y = Y[:20]

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("n", 20, subsample_size=5) as rows:
            z = pyro.sample("z", dist.Normal(mu, 1.0))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[rows])

    guide = auto.AutoDelta(model)
    blr = BLR(model, guide)
    for _ in range(200):
        blr.step()
    mu = float(pyro.param("AutoDelta.mu"))
    assert mu == pytest.approx(float(y.mean()), abs=0.3)
    z = pyro.param("AutoDelta.z").detach()
    assert float((z - (y + mu) / 2).abs().mean()) < 0.2


@pytest.mark.parametrize("model", [rows_are_given, rows_are_drawn])
def test_a_fit_of_a_part_is_never_certified(model: Callable[..., None]) -> None:
    fit = BLR(model, auto.AutoDelta(model)).fit(torch.arange(10), max_steps=60)
    assert not fit.converged
    assert "a part of the data" in fit.reason and "Mend" in fit.reason


def test_all_rows_in_another_order_are_certified() -> None:
    fit = BLR(rows_are_given, auto.AutoDelta(rows_are_given)).fit(torch.randperm(N))
    assert fit.converged


def test_a_step_size_is_the_share_of_newtons_step() -> None:
    guide = auto.AutoDelta(rows_are_given, init_loc_fn=auto.init_to_mean)
    blr = BLR(rows_are_given, guide, step_size=0.25)
    blr.step(torch.arange(N))
    assert float(guide.median(torch.arange(N))["mu"]) == pytest.approx(0.25 * MODE)
    fit = blr.fit(torch.arange(N))
    assert fit.converged and 10 < fit.steps < 60


def test_more_elements_than_a_hessian_may_have_are_the_optimisers() -> None:
    def model(index: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(200), 10.0).to_event(1))
        with pyro.plate("n", N, subsample=index):
            pyro.sample("y", dist.Normal(w.mean(), 1.0), obs=Y[index])

    guide = auto.AutoDelta(model, init_loc_fn=auto.init_to_mean)
    blr = BLR(model, guide, pyro.optim.Adam({"lr": 0.1}))
    index = torch.arange(10)
    blr.step(index)
    torch.testing.assert_close(
        guide.median(index)["w"].detach(), torch.full((200,), 0.1), atol=1e-6, rtol=0
    )
    assert "optimiser" in blr.explain(index).parameters["AutoDelta.w"].reason
