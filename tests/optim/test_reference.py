# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""100 steps are those of an independent reference on the same noise; Hessians are found."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyro_blr.optim import IVON, VOGN
from pyro_blr.optim.optimizer import GaussianOptimizer
from tests.optim.nets import CURVATURE, quadratic, train
from tests.oracles.weight_posteriors import Reference

STEPS, ROWS, SIZE = 100, 12, 5
X = torch.randn(ROWS, SIZE, generator=torch.Generator().manual_seed(1))
Y = torch.randn(ROWS, generator=torch.Generator().manual_seed(2))


class Line(nn.Module):
    """A non-linear regression on one vector of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.linspace(-1.0, 1.0, SIZE))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.w) + x @ self.w


def data_gradients(w: Any) -> Any:
    """Of each datum's loss (f - y)^2 / 2. # shape: (ROWS, SIZE)"""
    x, y = X.numpy(), Y.numpy()
    a = x @ w
    return ((np.tanh(a) + a - y) * (2 - np.tanh(a) ** 2))[:, None] * x


def half_square(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().mean()


OPTIONS = {
    "ivon": {"lr": 0.05, "ess": 100.0, "hessian_init": 0.3, "betas": (0.9, 0.99)},
    "long memory": {"lr": 0.05, "ess": 10.0, "hessian_init": 0.1},
    "short memory": {"lr": 0.01, "ess": 40.0, "hessian_init": 0.5, "betas": (0.5, 0.9)},
    "clipped": {"lr": 0.5, "ess": 100.0, "betas": (0.9, 0.999), "clip_radius": 0.01},
    "strong prior": {"lr": 0.1, "ess": 12.0, "betas": (0.9, 0.99), "weight_decay": 0.3},
    "squares": {
        **{"lr": 0.05, "ess": 100.0, "betas": (0.9, 0.99)},
        **{"hessian": "squared_gradient", "batch_size": ROWS},
    },
}


def reference(options: Any, hessian: str, mean: Tensor) -> Reference:
    betas = options.get("betas", (0.9, 0.99999))
    return Reference(
        mean=mean.detach().numpy().copy(),
        lr=options["lr"],
        ess=options["ess"],
        h0=options.get("hessian_init", 0.1),
        b1=betas[0],
        b2=betas[1],
        decay=options.get("weight_decay", 1e-4),
        hessian=hessian,
        batch_size=options.get("batch_size", 1.0),
        clip=options.get("clip_radius", math.inf),
        damping=options.get("damping", 0.0),
    )


@pytest.mark.parametrize("draws", [1, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_hundred_steps_of_ivon_are_the_papers(name: str, draws: int) -> None:
    options, line = OPTIONS[name], Line()
    optimizer = IVON(line.parameters(), seed=7, **options)  # type: ignore[arg-type]
    oracle = reference(options, str(options.get("hessian", "price")), line.w)
    stream = torch.Generator().manual_seed(7)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for _ in range(draws):
            with optimizer.sampled_params():
                half_square(line(X), Y).backward()
        optimizer.step()
        noises = [torch.empty(SIZE).normal_(generator=stream).numpy() for _ in range(draws)]
        oracle.step(lambda w: data_gradients(w).mean(0), noises)
    state = optimizer.state[line.w]
    assert state["step"] == STEPS
    assert line.w.detach().numpy() == pytest.approx(oracle.mean, abs=1e-12, rel=1e-12)
    assert state["hessian"].numpy() == pytest.approx(oracle.h, rel=1e-11, abs=1e-12)
    assert state["momentum"].numpy() == pytest.approx(oracle.g, abs=1e-12, rel=1e-12)


@pytest.mark.parametrize("draws", [1, 2])
@pytest.mark.parametrize("chunk_size", [None, 5])
def test_a_hundred_steps_of_vogn_are_the_papers(draws: int, chunk_size: int | None) -> None:
    options = {"lr": 0.1, "ess": 12.0, "hessian_init": 0.3, "betas": (0.9, 0.99), "damping": 0.02}
    line = Line()
    optimizer = VOGN(line.parameters(), seed=7, **options)  # type: ignore[arg-type]
    oracle = reference(options, "mean_square", line.w)
    stream = torch.Generator().manual_seed(7)
    for _ in range(STEPS):
        optimizer.zero_grad()
        for _ in range(draws):
            with optimizer.sampled_params():
                loss = optimizer.backward(line, half_square, X, Y, chunk_size=chunk_size)
                torch.testing.assert_close(loss, half_square(line(X), Y).detach())
        optimizer.step()
        noises = [torch.empty(SIZE).normal_(generator=stream).numpy() for _ in range(draws)]
        oracle.step(data_gradients, noises)
    assert line.w.detach().numpy() == pytest.approx(oracle.mean, abs=1e-12, rel=1e-12)
    assert optimizer.state[line.w]["hessian"].numpy() == pytest.approx(oracle.h, rel=1e-12)


@pytest.mark.parametrize("start", [0.05, 1.0])
def test_the_curvature_of_a_quadratic_is_found(start: float) -> None:
    """200 runs side by side; ``b2 = t / (t + 1)`` makes h the running average of the estimates."""
    w = nn.Parameter(torch.zeros(200, 3))
    options = {"hessian_init": start, "betas": (0.9, 0.99), "rescale_lr": False}
    optimizer = IVON([w], lr=0.002, ess=1000.0, seed=0, **options)  # type: ignore[arg-type]
    for lr in (0.002, 0.02, 0.1):  # of a Newton step, once h is near the curvature
        optimizer.param_groups[0]["lr"] = lr
        train(optimizer, lambda: quadratic(w), 300)
    for t in range(100, 900):
        optimizer.param_groups[0]["betas"] = (0.9, t / (t + 1))
        train(optimizer, lambda: quadratic(w), 1)
    found = optimizer.state[w]["hessian"]
    torch.testing.assert_close(found.mean(0), CURVATURE, rtol=0.01, atol=0.0)
    assert ((found - CURVATURE) / CURVATURE).square().mean().sqrt() < 0.06


@pytest.mark.parametrize(("total", "size"), [(8, 2), (9, 4), (6, 6)])
def test_squares_of_batch_gradients_mix_two_squares(total: int, size: int) -> None:
    """``E[g_hat^2] = w G + (1 - w) g^2``, G the mean square."""
    generator = torch.Generator().manual_seed(total)
    each = 0.5 + torch.randn(total, generator=generator)
    w = (total - size) / (size * (total - 1))
    expected = w * each.square().mean() + (1 - w) * each.mean().square()
    chosen = torch.stack([torch.randperm(total, generator=generator) for _ in range(20000)])
    squares = each[chosen[:, :size]].mean(1).square()
    error = squares.std() / len(squares) ** 0.5
    assert abs(squares.mean() - expected) < 4 * error + 1e-12


def test_vogn_has_the_mean_square_and_ivon_by_squares_the_mixture() -> None:
    """At draws that hardly move: the same identity through the optimisers' own estimates."""
    size, steps = 4, 500
    total = len(X)
    line = Line()
    each = torch.from_numpy(data_gradients(line.w.detach().numpy()))
    squares, mean = each.square().mean(0), each.mean(0)
    w = (total - size) / (size * (total - 1))
    expected = {IVON: size * (w * squares + (1 - w) * mean.square()), VOGN: squares}
    generator = torch.Generator().manual_seed(3)
    for kind, truth in expected.items():
        common = {"lr": 0.0, "ess": 1e14, "betas": (0.0, 0.0), "weight_decay": 1e-9}
        own = {"hessian": "squared_gradient", "batch_size": size} if kind is IVON else {}
        optimizer: GaussianOptimizer = kind(line.parameters(), **common, **own)
        found = []
        for _ in range(steps):
            rows = torch.randperm(total, generator=generator)[:size]
            found.append(estimate(optimizer, line, rows))
        drawn = torch.stack(found)
        error = drawn.std(0) / steps**0.5
        assert ((drawn.mean(0) - truth).abs() < 4 * error).all(), kind


def estimate(optimizer: GaussianOptimizer, line: Line, rows: Tensor) -> Tensor:
    """The estimate of one step from a fixed Hessian: what rho = 1 leaves of it."""
    optimizer.zero_grad()
    optimizer.state[line.w].clear()
    with optimizer.sampled_params():
        if isinstance(optimizer, VOGN):
            optimizer.backward(line, half_square, X[rows], Y[rows])
        else:
            half_square(line(X[rows]), Y[rows]).backward()
        gradient = line.w.grad
    assert gradient is not None
    optimizer.step()
    h: Tensor = optimizer.state[line.w]["hessian"]
    if isinstance(optimizer, VOGN):
        return h.clone()
    # At rho = 1 the retraction is (S^2 + H^2) / (2 S) of S = h0 and the estimate H.
    return (2 * 0.1 * h - 0.1**2).clamp_min(0.0).sqrt()
