# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""On a machine without a GPU: no mix of devices and no read-back to the host, by fake tensors."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from tests.families.contract import ROWS

METHODS = {
    "mean_params": lambda family, natural: family.mean_params(natural),
    "log_partition": lambda family, natural: (family.log_partition(natural),),
    "entropy": lambda family, natural: (family.entropy(natural),),
    "kl": lambda family, natural: (family.kl(natural, natural),),
    "in_domain": lambda family, natural: (family.in_domain(natural),),
    "fisher": lambda family, natural: (  # others differentiate, which fake tensors cannot
        family.fisher(natural, natural) if "fisher" in vars(type(family)) else ()
    ),
    "inverse_fisher": lambda family, natural: family.inverse_fisher(natural, natural),
    "natural": lambda family, natural: family.natural(natural),
    "rsample": lambda family, natural: (
        (family.rsample(natural, (5,)),) if family.name in ("Normal", "MultivariateNormal") else ()
    ),
    "expected_power": lambda family, natural: tuple(
        family.expected_power(natural, p)
        for p in (-1.0, 0.5)
        if family.expected_power(natural, p) is not None
    ),
}


@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.family.name)
def test_stays_on_the_device(row, method, batch):
    call, parameters = METHODS[method], row.random(batch)
    shapes = [tensor.shape for tensor in call(row.family, parameters)]
    with FakeTensorMode():
        natural = tuple(
            torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda") for tensor in parameters
        )
        results = call(row.family, natural)
    assert [tensor.shape for tensor in results] == shapes
    assert {tensor.device.type for tensor in results} <= {"cuda"}


def test_the_mode_would_find_a_read_back_and_a_mix():
    with FakeTensorMode():
        there = torch.empty(3, device="cuda")
        with pytest.raises(DataDependentOutputException):
            there.sum().item()
        with pytest.raises((RuntimeError, TypeError), match="device"):
            there + torch.empty(3)


def test_on_every_real_device(device):
    for row in ROWS:
        here = row.random((3,))
        there = tuple(tensor.to(device) for tensor in here)
        for method in ("mean_params", "entropy", "inverse_fisher", "in_domain"):
            for got, expected in zip(
                METHODS[method](row.family, there), METHODS[method](row.family, here), strict=True
            ):
                assert got.device.type == device.type
                torch.testing.assert_close(got.cpu(), expected, rtol=1e-12, atol=1e-12)
