# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""``fn.mask(there)`` is as ``poutine.mask``: what is not there may be anything, NaN among it."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from tests.checks import engine

THERE = torch.tensor([True, True, False, True, False])


def level(y: Tensor, observe: Callable[[Any, Tensor], None]) -> None:
    mu = pyro.sample("mu", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(y)):
        observe(dist.Normal(mu, 1.0).to_event(1), y)


def chances(y: Tensor, observe: Callable[[Any, Tensor], None]) -> None:
    p = pyro.sample("p", dist.Beta(1.0, 2.0))
    with pyro.plate("rows", len(y)):
        observe(dist.Bernoulli(p), (y[:, 0] > 0).double().masked_fill(y[:, 0].isnan(), torch.nan))


def mixture(y: Tensor, observe: Callable[[Any, Tensor], None]) -> None:
    with pyro.plate("k", 2):
        mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Categorical(torch.tensor([0.3, 0.7])))
        observe(dist.Normal(mu[z], 1.0), y[:, 0])


def occupancy(y: Tensor, observe: Callable[[Any, Tensor], None]) -> None:
    p = pyro.sample("p", dist.Beta(1.0, 2.0))
    with pyro.plate("rows", len(y)):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        observe(dist.Bernoulli(z * p), torch.where(THERE, y[:, 0] > 0, 1).double())


def of_the_law(fn: Any, y: Tensor) -> None:
    pyro.sample("y", fn.mask(THERE), obs=y)


def of_the_law_twice(fn: Any, y: Tensor) -> None:
    pyro.sample("y", fn.mask(THERE | (torch.arange(5) == 2)).mask(torch.arange(5) != 2), obs=y)


def of_the_handler(fn: Any, y: Tensor) -> None:
    with poutine.mask(mask=THERE):
        pyro.sample("y", fn, obs=y)


@pytest.mark.parametrize("observe", [of_the_law, of_the_law_twice])
@pytest.mark.parametrize("model", [level, chances, mixture, occupancy])
def test_what_is_masked_may_be_anything(model: Any, observe: Any) -> None:
    y = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    y[~THERE] = torch.nan
    losses = []
    for how in (of_the_handler, observe):
        pyro.set_rng_seed(0)  # of the starts
        pyro.clear_param_store()
        blr, _ = engine(model, on_sampled="error")
        losses.append([blr.step(y, how) for _ in range(3)])
        assert blr.fit(y, how).converged
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


LAWS: list[tuple[Any, Any, Tensor]] = [
    (
        dist.Normal(0.0, 3.0),
        lambda x: dist.Normal(x, 1.0),
        torch.tensor([0.3, -1.0, 2.0, 1.0, 0.0]),
    ),
    (dist.Gamma(1.0, 1.0), dist.Poisson, torch.tensor([0.0, 1.0, 4.0, 3.0, 0.0])),
]


@pytest.mark.parametrize(("prior", "law", "y"), LAWS, ids=["Normal", "Poisson"])
def test_steps_that_the_observations_of_a_chain_mask(prior: Any, law: Any, y: Tensor) -> None:
    gaps = torch.where(THERE, y, torch.nan)

    def chain(y: Tensor) -> None:
        moves = pyro.sample("moves", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
        with pyro.plate("k", 2):
            x = pyro.sample("x", prior)
        seen = law(x).expand([5, 2]).mask(THERE[:, None])
        pyro.sample("y", dist.DiscreteHMM(torch.zeros(2), moves.log(), seen), obs=y)

    start = {"x": type(prior)(*torch.tensor([[1.0, 3.0], [0.5, 0.6]]))}
    found, _ = engine(chain, start, on_sampled="error")
    expected, _ = engine(chain, start, on_sampled="error")
    for _ in range(3):
        assert found.step(gaps) == pytest.approx(expected.step(y), rel=1e-12)
