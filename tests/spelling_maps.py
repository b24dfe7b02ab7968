# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Conjugate structures made of linear maps: filters, splines, solved systems, sparse effects."""

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from torch import Tensor

from tests import simulated
from tests.spelling_data import GROUP, OTHER, D, G, N, X, Y

LENGTH, WINDOW = 12, 3
SIGNAL = torch.sin(torch.arange(float(LENGTH + WINDOW - 1), dtype=torch.float64))
SYSTEM = torch.eye(LENGTH, dtype=torch.float64) * 2 - torch.diag(torch.ones(LENGTH - 1), -1)
if not simulated.is_default():  # which has no sparse tensors
    MEMBERS = torch.sparse_coo_tensor(
        torch.stack([torch.arange(N).repeat(2), torch.cat([GROUP, OTHER])]),
        torch.ones(2 * N, dtype=torch.float64),
        (N, G),
        check_invariants=True,
    )


def _tau() -> Tensor:
    return pyro.sample("tau", dist.Gamma(2.0, 1.0))


def _vector(name: str, size: int) -> Tensor:
    return pyro.sample(name, dist.Normal(0.0, 1.0).expand([size]).to_event(1))


def _observe(loc: Tensor, tau: Tensor, y: Tensor = Y) -> None:
    pyro.sample("y", dist.Normal(loc, tau.rsqrt()).to_event(loc.dim()), obs=y[: len(loc)])


def filter_with_a_latent_kernel() -> None:
    tau, kernel = _tau(), _vector("kernel", WINDOW)
    _observe(F.conv1d(SIGNAL[None], kernel[None, None])[0], tau)


def filter_of_a_latent_signal() -> None:
    tau, signal, bias = _tau(), _vector("signal", LENGTH), _vector("bias", 1)
    kernel = torch.tensor([[[0.25, 0.5, 0.25]]], dtype=torch.float64)
    _observe(F.conv1d(signal[None, None], kernel, bias, padding=1)[0, 0], tau)


def channels_of_a_plate() -> None:
    """Two latent signals, elements of a plate, filtered slice by slice."""
    tau = _tau()
    with pyro.plate("channels", 2, dim=-2), pyro.plate("times", LENGTH, dim=-1):
        signal = pyro.sample("signal", dist.Normal(0.0, 1.0))
    smooth = F.avg_pool1d(signal, 3, stride=1)
    _observe(smooth.sum(0), tau)


def interpolated_knots() -> None:
    tau, knots = _tau(), _vector("knots", 5)
    loc = F.interpolate(knots[None, None], size=20, mode="linear", align_corners=True)
    _observe(loc[0, 0], tau)


def solved_system() -> None:
    """An autoregression by its equations: A x = innovations."""
    tau, innovations = _tau(), _vector("innovations", LENGTH)
    _observe(torch.linalg.solve_triangular(SYSTEM, innovations[:, None], upper=False)[:, 0], tau)


def multiple_membership() -> None:
    tau = _tau()
    with pyro.plate("groups", G):
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
    _observe(MEMBERS @ u, tau)


def sparse_design_of_a_plate_and_fixed_effects() -> None:
    tau, w = _tau(), _vector("w", D)
    with pyro.plate("groups", G):
        u = pyro.sample("u", dist.Normal(0.0, 0.5))
    _observe(MEMBERS @ u + X @ w, tau)


def totals_by_segment() -> None:
    tau, w = _tau(), _vector("w", D)
    totals = torch.zeros(G, dtype=torch.float64).index_add(0, GROUP, X @ w)
    _observe(totals / 8, tau)


def seasons() -> None:
    tau, season, trend = _tau(), _vector("season", 4), _vector("trend", N // 4)
    _observe(season.repeat(N // 4) + trend.repeat_interleave(4).roll(2), tau)


def first_differences() -> None:
    tau, level = _tau(), _vector("level", N)
    pyro.sample("steps", dist.Normal(level.diff(), 1.0).to_event(1), obs=Y[:-1])
    _observe(level, tau)


def bilinear_interaction() -> None:
    tau, u, v = _tau(), _vector("u", D), _vector("v", D)
    _observe(torch.einsum("nd,d,d->n", X, u, v), tau)


def block_design() -> None:
    tau, u, v = _tau(), _vector("u", 2), _vector("v", D)
    design = torch.block_diag(X[: N // 2, :2], X[N // 2 :])
    _observe(design @ torch.hstack([u, v]), tau)


_SPARSE = [multiple_membership, sparse_design_of_a_plate_and_fixed_effects]
MAPS = [
    filter_with_a_latent_kernel,
    filter_of_a_latent_signal,
    channels_of_a_plate,
    interpolated_knots,
    solved_system,
    *([] if simulated.is_default() else _SPARSE),
    totals_by_segment,
    seasons,
    first_differences,
    bilinear_interaction,
    block_design,
]
