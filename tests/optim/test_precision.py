# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Mixed precision, clipping and NaN gradients."""

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F

from pyro_blr.errors import (
    ArgumentError,
    NonFiniteError,
    SkippedStepWarning,
    StepOrderError,
)
from pyro_blr.optim import IVON, VOGN
from pyro_blr.optim.skipped import MOST_IN_A_ROW
from tests.optim.nets import batch, copies, net


def run(draws: int, scale: float | None, unscale: bool = False) -> list[Tensor]:
    """Three steps in float64, with a GradScaler or without."""
    module, (x, y) = net(), batch()
    optimizer = IVON(module.parameters(), lr=0.3, ess=20.0, betas=(0.9, 0.9), seed=3)
    scaler = GradScaler("cpu", init_scale=scale or 1.0, enabled=scale is not None)
    for _ in range(3):
        optimizer.zero_grad()
        for _ in range(draws):
            with optimizer.sampled_params():
                scaler.scale(F.cross_entropy(module(x), y)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    return copies(module.parameters()) + [
        optimizer.state[p]["hessian"] for p in module.parameters()
    ]


@pytest.mark.parametrize(("draws", "unscale"), [(1, False), (1, True), (3, False)])
def test_a_scaled_loss_is_the_same_step(draws: int, unscale: bool) -> None:
    for a, b in zip(run(draws, None), run(draws, 1024.0, unscale), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_unscaling_several_draws_is_refused() -> None:
    with pytest.raises(ArgumentError, match="leave unscale_ out"):
        run(2, 1024.0, unscale=True)


@pytest.mark.parametrize("unscale", [False, True])
def test_an_overflow_is_skipped_and_counted_and_its_draw_dropped(unscale: bool) -> None:
    module, (x, y) = net(dtype=torch.float32), batch()
    optimizer = IVON(module.parameters(), lr=0.3, ess=20.0, seed=3)
    scaler = GradScaler("cpu", init_scale=2.0**16)
    before = copies(module.parameters())
    for t in range(3):
        optimizer.zero_grad()
        with optimizer.sampled_params():
            loss = F.cross_entropy(module(x.float()), y)
            scaler.scale(loss * (1e38 if t < 2 else 1.0)).backward()
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
        if t < 2:
            assert all(map(torch.equal, before, copies(module.parameters())))
            assert (optimizer.skipped, optimizer._draws.count) == (t + 1, 0)
    assert optimizer.skipped == 2
    assert optimizer.state[next(module.parameters())]["step"] == 1
    assert scaler.get_scale() == 2.0**14


def test_an_error_within_the_scalers_step_leaves_no_scale_behind() -> None:
    module, (x, y) = net(), batch()
    optimizer = IVON(module.parameters(), lr=0.3, ess=20.0)
    scaler = GradScaler("cpu", init_scale=64.0)
    scaler.scale(F.cross_entropy(module(x), y)).backward()
    with pytest.raises(StepOrderError, match="without a draw"):
        scaler.step(optimizer)
    assert not {"found_inf", "grad_scale"} & set(vars(optimizer))


def test_autocast_trains() -> None:
    module, (x, y) = net(dtype=torch.float32), batch(200)
    optimizer = IVON(module.parameters(), lr=0.5, ess=200.0, seed=3)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        with optimizer.sampled_params(), torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(module(x.float()), y)
            loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])


def test_clipping_the_gradient_norm_is_a_step_on_the_clipped_gradient() -> None:
    found = []
    for by_hand in (False, True):
        module, (x, y) = net(), batch()
        optimizer = IVON(module.parameters(), lr=0.3, ess=20.0, betas=(0.9, 0.9), seed=3)
        for _ in range(3):
            optimizer.zero_grad()
            with optimizer.sampled_params():
                F.cross_entropy(module(x), y).backward()
                if by_hand:
                    nn.utils.clip_grad_norm_(module.parameters(), 0.05)
            if not by_hand:
                nn.utils.clip_grad_norm_(module.parameters(), 0.05)
            optimizer.step()
        found.append(copies(module.parameters()))
    assert all(map(torch.equal, *found))


# -------------------------------------------------------------------------------- NaN gradients


def step(optimizer: Any, w: Tensor, value: float) -> None:
    optimizer.zero_grad()
    with optimizer.sampled_params():
        (w * value).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_gradient_that_is_not_finite_moves_nothing(value: float) -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = IVON([w], lr=0.1, ess=20.0)
    step(optimizer, w, 1.0)
    before = {k: torch.as_tensor(v).clone() for k, v in optimizer.state[w].items()}
    mean = w.detach().clone()
    with pytest.warns(SkippedStepWarning, match="1 so far, 1 in a row"):
        step(optimizer, w, value)
    assert optimizer.skipped == 1
    assert torch.equal(mean, w)
    assert all(torch.equal(v, torch.as_tensor(optimizer.state[w][k])) for k, v in before.items())
    step(optimizer, w, 1.0)
    assert optimizer.state[w]["step"] == 2


def test_many_in_a_row_are_an_error() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = IVON([w], lr=0.1, ess=20.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedStepWarning)
        for _ in range(MOST_IN_A_ROW - 1):
            step(optimizer, w, math.nan)
        step(optimizer, w, 1.0)  # and the count begins anew
        for _ in range(MOST_IN_A_ROW - 1):
            step(optimizer, w, math.nan)
        with pytest.raises(NonFiniteError, match=f"{MOST_IN_A_ROW} steps in a row.*lower lr"):
            step(optimizer, w, math.nan)
    assert optimizer.skipped == 2 * MOST_IN_A_ROW - 1


def test_the_error_says_where_draws_have_no_spread() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = IVON([w], lr=0.1, ess=20.0, weight_decay=0.5)
    step(optimizer, w, 1.0)
    optimizer.state[w]["hessian"].fill_(-0.3)  # as a concave loss under a strong prior
    optimizer.param_groups[0]["weight_decay"] = 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkippedStepWarning)
        with pytest.raises(NonFiniteError, match=r"hessian \+ weight_decay is down to -0.2"):
            for _ in range(MOST_IN_A_ROW):
                optimizer.zero_grad()
                with optimizer.sampled_params():
                    w.square().sum().backward()
                optimizer.step()


def test_vogn_under_a_scaler_is_refused() -> None:
    module, (x, y) = net(), batch()
    optimizer = VOGN(module.parameters(), lr=0.3, ess=20.0)
    scaler = GradScaler("cpu", init_scale=8.0)
    scaler.scale(torch.ones(1))
    with optimizer.sampled_params():
        optimizer.backward(module, F.cross_entropy, x, y)
    with pytest.raises(ArgumentError, match="bfloat16 autocast"):
        scaler.step(optimizer)
