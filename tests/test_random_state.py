# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Draws from a seed of the package's own leave every device's generator as it was."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural
from pyro_blr.random_state import from_seed


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The state of a GPU's generator, on a machine that need not have one."""
    state = torch.arange(4)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [state.clone()])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda new, device: state.copy_(new))
    monkeypatch.setattr(torch.cuda, "manual_seed_all", state.fill_)
    return state


def test_draws_from_a_seed_are_the_same_and_leave_the_generators(gpu: Tensor) -> None:
    before = torch.get_rng_state()
    drawn = []
    for _ in range(2):
        with from_seed(3):
            drawn.append(torch.rand(5))
    assert torch.equal(*drawn)
    assert torch.equal(torch.get_rng_state(), before)
    assert gpu.tolist() == [0, 1, 2, 3]


def test_quantiles_of_draws_leave_the_generators(gpu: Tensor) -> None:
    def model(x: Tensor) -> None:
        precision = pyro.sample("precision", dist.Wishart(torch.tensor(5.0), torch.eye(2)))
        with pyro.plate("rows", len(x)):
            law = dist.MultivariateNormal(torch.zeros(2), precision_matrix=precision)
            pyro.sample("x", law, obs=x)

    guide = AutoNatural(model)
    BLR(model, guide).fit(torch.randn(20, 2))
    gpu.copy_(torch.arange(4))
    before = torch.get_rng_state()
    first, second = (guide.quantiles([0.5])["precision"] for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    assert gpu.tolist() == [0, 1, 2, 3]
