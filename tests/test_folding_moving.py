# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What moves by itself is never folded: parameters, random numbers, subsamples."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr.errors import StaleDataError
from tests.checks import engine
from tests.folding import START, assert_follows, fresh, normal, randn, warm


def test_parameter_that_moves() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        normal(x, y, offset=pyro.param("offset", torch.tensor(0.5)))

    x, y = randn(0, 20), randn(1, 20)
    blr, _ = engine(model, START, blocks="site")
    before = blr.evaluate_loss(x, y)
    for value in (2.0, -1.0):
        pyro.get_param_store()["offset"] = torch.tensor(value)
        expected = fresh(normal, x, y, offset=value)
        assert abs(expected - before) > 1e-3
        assert blr.evaluate_loss(x, y) == pytest.approx(expected, rel=1e-12)
    pyro.param("offset").data.fill_(0.25)
    assert blr.evaluate_loss(x, y) == pytest.approx(fresh(normal, x, y, offset=0.25), rel=1e-12)


def test_constrained_parameter_that_moves() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        w = pyro.sample("w", dist.Normal(0.0, scale))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(w * x, tau.rsqrt()), obs=y)

    x, y = randn(0, 20), randn(1, 20)
    blr, _ = engine(model, START, blocks="site")
    first = blr.evaluate_loss(x, y)
    pyro.get_param_store()["scale"] = torch.tensor(3.0)
    second = blr.evaluate_loss(x, y)
    # Only log N(w; 0, scale) moves: E w^2 = 0.09 + 0.25 under START.
    change = np.log(3.0) - 0.5 * 0.34 * (1 - 1 / 9)
    assert second - first == pytest.approx(change, rel=1e-10)


def test_optimizer_moves_a_parameter_to_its_optimum() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        normal(x, y, offset=pyro.param("offset", torch.tensor(0.0)))

    x, y = randn(0, 30), 4.0 + randn(1, 30)
    blr, _ = engine(model, START, blocks="site", optim=pyro.optim.Adam({"lr": 0.2}))
    for _ in range(60):
        blr.step(x, y)
    assert float(pyro.param("offset")) == pytest.approx(4.0, abs=0.6)


def test_weights_of_a_module_that_move() -> None:
    network = torch.nn.Linear(1, 1)

    def model(x: Tensor, y: Tensor) -> None:
        pyro.module("network", network)
        normal(x, y, offset=network(x[:, None]).squeeze(-1))

    x, y = randn(0, 20), randn(1, 20)
    blr, _ = engine(model, START, blocks="site")
    blr.evaluate_loss(x, y)
    with torch.no_grad():
        network.weight.fill_(2.0)
        network.bias.fill_(-1.0)
    expected = fresh(normal, x, y, offset=2 * x - 1)
    assert blr.evaluate_loss(x, y) == pytest.approx(expected, rel=1e-12)


def test_weights_that_the_model_only_closes_over() -> None:
    """Nothing tells Pyro of this parameter; a gradient step moves it all the same."""
    weight = torch.nn.Parameter(torch.tensor(0.5))

    def model(x: Tensor, y: Tensor) -> None:
        normal(x, y, offset=weight * 2)

    x, y = randn(0, 20), randn(1, 20)
    blr, _ = engine(model, START, blocks="site")
    blr.evaluate_loss(x, y)
    weight.data.fill_(3.0)
    assert blr.evaluate_loss(x, y) == pytest.approx(fresh(normal, x, y, offset=6.0), rel=1e-12)


def test_randomness_in_the_model() -> None:
    def model(x: Tensor, y: Tensor) -> None:
        normal(x, y, offset=0.5 * torch.randn(()))

    x, y = randn(0, 20), randn(1, 20)
    blr, _ = engine(model, START, blocks="site")
    draws = torch.tensor([blr.evaluate_loss(x, y) for _ in range(150)])
    assert len(draws.unique()) > 140
    # The loss is quadratic in the offset, E offset = 0 and E offset^2 = 0.25: the average over
    # noise is that of the points +-0.5.
    expected = 0.5 * (fresh(normal, x, y, offset=0.5) + fresh(normal, x, y, offset=-0.5))
    assert abs(draws.mean() - expected) < 5 * draws.std() / 150**0.5


def test_numpy_randomness_in_the_model() -> None:
    source = np.random.default_rng(0)

    def model(x: Tensor, y: Tensor) -> None:
        normal(x, y, offset=float(source.normal()))

    x, y = randn(0, 20), randn(1, 20)
    blr, _ = engine(model, START, blocks="site", check_every=1)
    try:
        draws = {blr.evaluate_loss(x, y) for _ in range(10)}
    except StaleDataError:
        return
    assert len(draws) == 10


def test_subsample_that_the_plate_draws() -> None:
    x, y = randn(0, 20), randn(1, 20)

    def model() -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", 20, subsample_size=5) as index:
            pyro.sample("y", dist.Normal(w * x[index], tau.rsqrt()), obs=y[index])

    blr, _ = engine(model, START, blocks="site")
    draws = torch.tensor([blr.evaluate_loss() for _ in range(150)])
    assert len(draws.unique()) > 100
    assert abs(draws.mean() - fresh(normal, x, y)) < 5 * draws.std() / 150**0.5


def test_subsample_that_the_user_gives() -> None:
    x, y = randn(0, 20), randn(1, 20)

    def model(index: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
        with pyro.plate("data", 20, subsample=index) as rows:
            pyro.sample("y", dist.Normal(w * x[rows], tau.rsqrt()), obs=y[rows])

    index = torch.arange(5)
    blr, before = warm(model, index)
    before = assert_follows(blr, model, before, torch.arange(5, 10))
    index.add_(7)
    before = assert_follows(blr, model, before, index)
    assert_follows(blr, model, before, torch.arange(8))  # a longer batch is a miss, not an error
