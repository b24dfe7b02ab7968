# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What wraps the observed site of the spellings' regression: masks, scales, plates, events."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor

from tests.spelling_data import KEEP, N, X, Y
from tests.spelling_regression import declare_vector


def _masked_by_a_handler() -> None:
    w, tau = declare_vector(), pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", N), poutine.mask(mask=KEEP):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=Y)


def _masked_distribution() -> None:
    w, tau = declare_vector(), pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()).mask(KEEP), obs=Y)


def _mask_below_an_event() -> None:
    w, tau = declare_vector(), pyro.sample("tau", dist.Gamma(2.0, 1.0))
    pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()).mask(KEEP).to_event(1), obs=Y)


def _kept_rows() -> None:
    w, tau = declare_vector(), pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", int(KEEP.sum())):
        pyro.sample("y", dist.Normal(X[KEEP] @ w, tau.rsqrt()), obs=Y[KEEP])


def _scaled() -> None:
    w, tau = declare_vector(), pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", N), poutine.scale(scale=2.5):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=Y)


ROW_SCALES = torch.linspace(0.1, 3.0, N, dtype=torch.float64)


def _scaled_row_by_row() -> None:
    w, tau = declare_vector(), pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", N), poutine.scale(scale=ROW_SCALES):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=Y)


def _every_row_twice_and_a_half() -> None:
    w, tau = declare_vector(), pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("data", size=100, subsample=torch.arange(N)):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=Y)


def _nested_plates() -> None:
    w, tau = declare_vector(), pyro.sample("tau", dist.Gamma(2.0, 1.0))
    with pyro.plate("columns", 8, dim=-1), pyro.plate("rows", N // 8, dim=-2):
        pyro.sample("y", dist.Normal((X @ w).reshape(-1, 8), tau.rsqrt()), obs=Y.reshape(-1, 8))


def _event_of_rows() -> None:
    w, tau = declare_vector(), pyro.sample("tau", dist.Gamma(2.0, 1.0))
    pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()).to_event(1), obs=Y)


def _sequential_plate() -> None:
    w, tau = declare_vector(), pyro.sample("tau", dist.Gamma(2.0, 1.0))
    for i in pyro.plate("data", N):
        pyro.sample(f"y_{i}", dist.Normal(X[i] @ w, tau.rsqrt()), obs=Y[i])


def _factor() -> None:
    w, tau = declare_vector(), pyro.sample("tau", dist.Gamma(2.0, 1.0))
    normalizer = 0.5 * tau.log() - 0.5 * math.log(2 * math.pi)
    with pyro.plate("data", N):
        pyro.factor("y", normalizer - 0.5 * tau * (Y - X @ w) ** 2)


WRAPPERS: dict[str, tuple[Callable[[], None], Tensor]] = {
    "poutine.mask": (_masked_by_a_handler, KEEP.double()),
    "Distribution.mask": (_masked_distribution, KEEP.double()),
    "mask below an event": (_mask_below_an_event, KEEP.double()),
    "rows left out": (_kept_rows, KEEP.double()),
    "poutine.scale": (_scaled, torch.full((N,), 2.5, dtype=torch.float64)),
    "poutine.scale of rows": (_scaled_row_by_row, ROW_SCALES),
    "subsampled plate": (_every_row_twice_and_a_half, torch.full((N,), 2.5, dtype=torch.float64)),
    "nested plates": (_nested_plates, torch.ones(N, dtype=torch.float64)),
    "to_event": (_event_of_rows, torch.ones(N, dtype=torch.float64)),
    "sequential plate": (_sequential_plate, torch.ones(N, dtype=torch.float64)),
    "pyro.factor": (_factor, torch.ones(N, dtype=torch.float64)),
}
