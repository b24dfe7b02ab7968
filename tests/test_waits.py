# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""How often a step waits for a device: a small number, whatever the number of data."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural
from pyro_blr.optim import IVON
from tests.plain_models import groups, line, logistic, mixture, vector
from tests.waits import of_each, waits


def hidden_markov(X: Tensor, y: Tensor) -> None:
    p = pyro.sample("p", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    with pyro.plate("states", 2):
        m = pyro.sample("m", dist.Normal(0.0, 3.0))
    chain = dist.DiscreteHMM(torch.zeros(2), p.log(), dist.Normal(m, 1.0))
    pyro.sample("y", chain, obs=y)


def many(X: Tensor, y: Tensor) -> None:
    """Five blocks of a mean field, where `vector` has two."""
    total: Any = 0.0
    for i in range(4):
        w = pyro.sample(f"w{i}", dist.Normal(0.0, 1.0))
        total = total + w * X[:, i % 3]
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(total, tau**-0.5), obs=y)


#: At most so many waits a step: one for each block inside the cone, one for all when they are
#: written, one for the loss, and one for each small constant (those in plain numbers are on the
#: CPU, where reading them is no wait). Quadrature reads a few sizes more each time it is chosen.
MOST = {
    vector: 9,
    groups: 6,
    mixture: 9,
    hidden_markov: 9,
    logistic: 16,
    line: 18,
}


def data(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator("cpu").manual_seed(1)
    X = torch.randn(count, 3, generator=generator)
    return X, X[:, 0] + torch.randn(count, generator=generator)


def settled(model: Callable[..., None], count: int, **options: Any) -> list[Counter[str]]:
    """The waits of two steps, once the first ones have folded what is constant."""
    pyro.clear_param_store()
    given = data(count)
    blr = BLR(model, AutoNatural(model), on_sampled="error", **options)
    for _ in range(8):
        blr.step(*given)
    return of_each(lambda: blr.step(*given), 2)


@pytest.mark.host("counts what the CPU does")
@pytest.mark.parametrize("model", MOST)
def test_a_step_waits_a_few_times_whatever_the_number_of_data(model):
    few, again = settled(model, 100)
    more, _ = settled(model, 400)
    assert few == again
    assert abs(more.total() - few.total()) <= 3  # sizes of quadrature, step sizes
    assert max(few.total(), more.total()) <= MOST[model]
    # No size of a result is a value: a step could be captured but for the numbers that it reads.
    assert set(few) | set(more) <= {"a number", "tolist"}


@pytest.mark.host("counts what the CPU does")
def test_a_block_more_is_one_wait_more():
    two, _ = settled(vector, 100, blocks="site")
    five, _ = settled(many, 100, blocks="site")
    assert five["a number"] - two["a number"] == 3


@pytest.mark.host("counts what the CPU does")
@pytest.mark.parametrize("sizes", [(4, 3), (4, 64, 64, 64, 3)], ids=str)
def test_an_optimisers_step_waits_once(sizes):
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    module, x = nn.Sequential(*layers), torch.randn(50, 4)
    y = torch.randint(3, (50,))
    optimizer = IVON(module.parameters(), lr=0.1, ess=50.0, seed=0)
    for _ in range(3):
        with waits() as found:
            optimizer.zero_grad()
            with optimizer.sampled_params():
                F.cross_entropy(module(x), y).backward()
            optimizer.step()
    assert found == {"a number": 1}


def test_the_counter_sees_what_waits():
    x = torch.arange(4.0)
    with waits() as found:
        bool(x.sum() > 0)
        x[x > 1]
        x.nonzero()
        x.tolist()
        torch.equal(x, x)
    assert found == {"a number": 1, "a mask": 1, "nonzero": 1, "tolist": 1, "equal": 1}
