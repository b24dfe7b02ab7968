# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""VOGN takes each datum for itself, and says where that cannot be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_blr.errors import ArgumentError, BLRError, RunningStatisticsWarning, StepOrderError
from pyro_blr.optim import VOGN
from tests.optim.nets import batch, copies, net


def vogn_on(module: nn.Module, run: Callable[[VOGN], Any]) -> None:
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0)
    with optimizer.sampled_params():
        run(optimizer)
    optimizer.step()


def test_vogn_needs_the_gradient_of_each_datum() -> None:
    module, (x, y) = net(), batch()
    with pytest.raises(StepOrderError, match=r"optimizer.backward\(net, loss, x, y\)"):
        vogn_on(module, lambda o: F.cross_entropy(module(x), y).backward())


def test_vogns_backward_outside_a_draw() -> None:
    module, (x, y) = net(), batch()
    optimizer = VOGN(module.parameters(), lr=0.1, ess=20.0)
    with pytest.raises(StepOrderError, match="outside sampled_params"):
        optimizer.backward(module, F.cross_entropy, x, y)


def test_vogn_through_batch_norm() -> None:
    module, (x, y) = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)), batch()
    with (
        pytest.raises(ArgumentError, match=r"one by one.*GroupNorm"),
        pytest.warns(RunningStatisticsWarning),
    ):
        vogn_on(module, lambda o: o.backward(module, F.cross_entropy, x, y))


def test_vogn_on_another_module_or_no_rows() -> None:
    module, (x, y) = net(), batch()
    with pytest.raises(ArgumentError, match="has no parameter of this optimiser"):
        vogn_on(module, lambda o: o.backward(net(), F.cross_entropy, x, y))
    with pytest.raises(ArgumentError, match="a batch without rows"):
        vogn_on(module, lambda o: o.backward(module, F.cross_entropy, x[:0], y[:0]))


def test_an_error_in_the_users_own_loss_stays_what_it_is() -> None:
    module, (x, y) = net(), batch()
    with pytest.raises(RuntimeError) as found:
        vogn_on(module, lambda o: o.backward(module, F.cross_entropy, x[:, :2], y))
    assert not isinstance(found.value, BLRError)


def test_vogn_with_frozen_layers_dropout_and_several_inputs() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(3, 4).requires_grad_(False), nn.Linear(4, 2)
            self.dropout = nn.Dropout(0.5)

        def forward(self, a: Any, b: Any) -> Any:
            return self.last(self.dropout(self.first(a) + self.first(b)).tanh())

    module, (x, y) = Two(), batch()
    before = copies(module.parameters())
    vogn_on(module, lambda o: o.backward(module, F.cross_entropy, (x, 2 * x), y, chunk_size=7))
    moved = [not torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True)]
    assert moved == [False, False, True, True]
