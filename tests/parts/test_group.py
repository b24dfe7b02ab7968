# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A group that is gone: gloo aborts the program at its end if something keeps one until then."""

import weakref
from collections.abc import Iterator

import pytest
import torch
import torch.distributed as distributed
from torch import nn

from pyro_blr import BLR
from pyro_blr.errors import ProcessError
from pyro_blr.guides import AutoNatural
from pyro_blr.optim import IVON

from .models import X, Y, regression


@pytest.fixture
def group() -> Iterator[weakref.ref[distributed.ProcessGroup]]:
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield weakref.ref(distributed.group.WORLD)
    if distributed.is_initialized():
        distributed.destroy_process_group()


def test_an_engine_does_not_keep_it(group) -> None:
    blr = BLR(regression, AutoNatural(regression), process_group=group())
    blr.step(X, Y)
    distributed.destroy_process_group()
    assert group() is None
    with pytest.raises(ProcessError, match="destroyed"):
        blr.step(X, Y)


def test_an_optimiser_does_not_keep_it(group) -> None:
    net = nn.Linear(2, 1)
    optimizer = IVON(net.parameters(), lr=0.1, ess=9, process_group=group())
    distributed.destroy_process_group()
    assert group() is None
    with optimizer.sampled_params():
        net(torch.randn(9, 2)).sum().backward()
    with pytest.raises(ProcessError, match="destroyed"):
        optimizer.step()
