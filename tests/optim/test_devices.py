# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Everything is where the parameters are; the host waits once a step and device."""

from collections import Counter
from typing import Any

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from pyro_blr.lifting import host
from pyro_blr.optim import IVON, predict
from pyro_blr.optim.noise import Noise
from tests.fake_device import _NoTransfer
from tests.optim.nets import batch, net, train


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """The host's reads, counted and answered."""
    found: Counter[str] = Counter()

    def truth(tensor: Any) -> bool:
        found[tensor.device.type] += 1
        return True

    monkeypatch.setattr(host, "truth", truth)
    return found


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_on_tensors_without_values(
    draws: int, dtype: torch.dtype, waits: Counter[str]
) -> None:
    with FakeTensorMode(), _NoTransfer():
        module = nn.Linear(3, 2, device="meta", dtype=dtype)
        optimizer = IVON(module.parameters(), lr=0.1, ess=20.0, clip_radius=0.1, seed=0)
        for _ in range(3):
            optimizer.zero_grad()
            for _ in range(draws):
                with optimizer.sampled_params():
                    for p in module.parameters():
                        p.grad = torch.ones_like(p)
            optimizer.step()
    assert waits == {"meta": 3}
    state = optimizer.state[module.weight]
    assert {t.device.type for t in state.values() if isinstance(t, torch.Tensor)} == {"meta"}


def test_parameters_on_two_devices_train_together(waits: Counter[str]) -> None:
    """To torch a tensor on meta is one on another device."""
    found = []
    for has_other in (False, True):
        here, there = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4, device="meta"))
        optimizer = IVON([here, *([there] if has_other else [])], lr=0.1, ess=20.0, seed=0)
        for _ in range(3):
            optimizer.zero_grad()
            with optimizer.sampled_params():
                here.square().sum().backward()
                there.square().sum().backward()
            optimizer.step()
        found.append(here.detach().clone())
        if has_other:
            assert optimizer.state[there]["hessian"].device.type == "meta"
            resumed = IVON([here, there], lr=0.1, ess=20.0)
            resumed.load_state_dict(optimizer.state_dict())
    assert torch.equal(*found)
    assert waits == {here.device.type: 6, "meta": 3}


def test_a_second_device_has_noise_of_its_own() -> None:
    noise = Noise(5)
    first = noise._new(torch.device("cpu"))
    noise._generators["cuda:0"] = first  # as if there had been another before
    second = noise._new(torch.device("cpu"))
    assert first is not None
    assert second is not None
    assert (first.initial_seed(), second.initial_seed()) == (5, 6)


def test_a_run_on_each_device(device: torch.device) -> None:
    module, (x, _) = net().to(device), batch(200)
    y = (x[:, 0] > 0).long()
    optimizer = IVON(module.parameters(), lr=0.3, ess=200.0, betas=(0.9, 0.99), seed=1)
    losses = train(optimizer, lambda: F.cross_entropy(module(x.to(device)), y.to(device)), 100)
    assert sum(losses[-10:]) < 0.8 * sum(losses[:10])
    assert predict(optimizer, lambda: module(x.to(device)), 3).device.type == device.type
