# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The data that all spellings share, and how their values are compared."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.checks import tiers

N, D, G = 40, 3, 5
RTOL = 1e-10
_generator = torch.Generator().manual_seed(20)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=_generator, dtype=torch.float64)


X = randn(N, D)
Y = randn(N)
GROUP = torch.randint(G, (N,), generator=_generator)
OTHER = torch.randint(G, (N,), generator=_generator)
OTHER[:4] = GROUP[:4]  # so that u[g] - u[h] meets the same element twice
KEEP = Y > -0.4
COUNTS = torch.poisson(torch.full((N,), 2.0, dtype=torch.float64), generator=_generator)
PERMUTATION = torch.tensor([2, 0, 1])
FIRST = torch.tensor([True, False, True])
ONE_HOT = F.one_hot(GROUP, G).double()


Predict = Callable[[Tensor], Tensor]


def assert_close(actual: Tensor, expected: Tensor, rtol: float = RTOL) -> None:
    error = ((actual - expected).abs().max() / expected.abs().max()).item()
    assert error <= rtol, f"{actual} for {expected}: relative error {error:.2e}"


def assert_every_factor_exact(blr: Any, *args: Any) -> None:
    inexact = {s: t for s, t in tiers(blr, *args).items() if t != "exact"}
    assert not inexact, blr.explain(*args)
