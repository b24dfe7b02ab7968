# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Weights are at a draw within the block, and at their means after it, whatever happens."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from pyro_blr.errors import StepOrderError
from pyro_blr.optim import IVON, VOGN
from pyro_blr.optim import parts as parts_module
from pyro_blr.optim.parts import in_parts
from tests.optim.nets import batch, copies, net, quadratic, train

both = pytest.mark.parametrize("kind", [IVON, VOGN])
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16]
)


@both
@dtypes
def test_the_means_come_back_to_the_last_bit(kind: Any, dtype: torch.dtype) -> None:
    module = net(dtype=dtype)
    optimizer = kind(module.parameters(), lr=0.1, ess=20.0)
    before = copies(module.parameters())
    for counts in (True, False, True):
        with optimizer.sampled_params(train=counts):
            inside = copies(module.parameters())
        assert any(not torch.equal(a, b) for a, b in zip(before, inside, strict=True))
        assert all(map(torch.equal, before, copies(module.parameters())))


class Stop(BaseException):
    """Not an Exception, as KeyboardInterrupt is not."""


@both
@dtypes
@pytest.mark.parametrize("error", [ValueError, Stop])
def test_an_exception_leaves_the_means(kind: Any, dtype: torch.dtype, error: Any) -> None:
    module = net(dtype=dtype)
    optimizer = kind(module.parameters(), lr=0.1, ess=20.0)
    before = copies(module.parameters())
    with pytest.raises(error), optimizer.sampled_params():
        raise error
    assert all(map(torch.equal, before, copies(module.parameters())))
    with pytest.raises(StepOrderError, match="ended in an exception"):
        optimizer.step()
    with optimizer.sampled_params():  # and goes on
        pass


def test_an_exception_while_drawing_leaves_the_means(monkeypatch: pytest.MonkeyPatch) -> None:
    module = net()
    optimizer = IVON(module.parameters(), lr=0.1, ess=20.0)
    before = copies(module.parameters())

    calls: list[Any] = []

    def fail(self: Any, tensors: Any, place: Any) -> Any:
        calls.append(tensors)
        if len(calls) == 4:
            raise MemoryError
        return original(self, tensors, place)

    original = type(optimizer._noise).like
    for part in ("CPU_PART", "DEVICE_PART"):
        monkeypatch.setattr(parts_module, part, 4)
    monkeypatch.setattr(type(optimizer._noise), "like", fail)
    with pytest.raises(MemoryError), optimizer.sampled_params():
        raise AssertionError("the block must not run")
    assert all(map(torch.equal, before, copies(module.parameters())))


@pytest.mark.parametrize("call", range(6))
@pytest.mark.parametrize("name", ["_foreach_sub", "_foreach_copy_"])
def test_an_exception_on_the_way_back_leaves_the_means(
    name: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No memory for a difference, or an interrupt between any two operations."""
    module = net()
    groups = [{"params": [p]} for p in module.parameters()]
    optimizer = IVON(groups, lr=0.1, ess=20.0)
    before = copies(module.parameters())
    original, calls = getattr(torch, name), iter(range(100))

    def fail(*args: Any) -> Any:
        if next(calls) == call:
            raise Stop
        return original(*args)

    for part in ("CPU_PART", "DEVICE_PART"):
        monkeypatch.setattr(parts_module, part, 8)
    try:
        with optimizer.sampled_params():
            monkeypatch.setattr(torch, name, fail)
    except Stop:
        pass
    monkeypatch.undo()
    assert all(map(torch.equal, before, copies(module.parameters())))
    if next(calls) > call:
        with pytest.raises(StepOrderError, match="ended in an exception"):
            optimizer.step()


def test_a_first_draw_in_inference_mode_spoils_no_training() -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = IVON([w], lr=0.1, ess=20.0)
    with torch.inference_mode(), optimizer.sampled_params(train=False):
        quadratic(w)
    train(optimizer, lambda: quadratic(w), 2)
    assert optimizer.state[w]["step"] == 2


def test_the_memory_is_adams_and_one_buffer() -> None:
    w = nn.Parameter(torch.ones(1000))
    optimizer = IVON([w], lr=0.1, ess=20.0)
    train(optimizer, lambda: quadratic(w[:3]) + w.sum(), 3)
    held = [t for t in optimizer.state[w].values() if isinstance(t, torch.Tensor)]
    held += [*optimizer._draws.buffers.values(), *optimizer._draws.products.values()]
    assert sum(t.numel() for t in held) == 3 * w.numel()


def test_a_draw_has_the_spread_of_the_posterior() -> None:
    w = nn.Parameter(torch.full((4, 50_000), 2.0))
    optimizer = IVON([w], lr=0.1, ess=50.0, hessian_init=0.3, weight_decay=0.2)
    with optimizer.sampled_params():
        z = (w.detach() - 2.0) * math.sqrt(50.0 * 0.5)
    assert float(z.mean()) == pytest.approx(0.0, abs=4 / math.sqrt(z.numel()))
    assert float(z.square().mean()) == pytest.approx(1.0, abs=4 * math.sqrt(2 / z.numel()))
    assert float((z[0] * z[1]).mean()) == pytest.approx(0.0, abs=4 / math.sqrt(50_000))


def test_a_backward_pass_behind_the_block_is_refused_by_autograd() -> None:
    module = net()
    optimizer = IVON(module.parameters(), lr=0.1, ess=20.0)
    x, y = batch()
    with optimizer.sampled_params():
        loss = F.cross_entropy(module(x), y)
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


# ------------------------------------------------------------------------------ several draws


def gradients_of(draws: int, how: str) -> tuple[list[Any], float]:
    """The state after one step by some draws on a fixed problem."""
    module, (x, y) = net(), batch()
    optimizer = IVON(module.parameters(), lr=0.3, ess=20.0, betas=(0.9, 0.9), seed=3, draws=draws)
    loss: Any = None
    for _ in range(3):
        if how == "closure":

            def closure() -> Any:
                optimizer.zero_grad()
                value = F.cross_entropy(module(x), y)
                value.backward()
                return value

            loss = optimizer.step(closure).item()
            continue
        optimizer.zero_grad()
        losses = []
        for _ in range(draws):
            share = 1 / draws if how == "shares" else 1.0
            with optimizer.sampled_params(weight=share):
                value = F.cross_entropy(module(x), y)
                (share * value).backward()
                losses.append(value.item())
            if how == "with a prediction between":
                with optimizer.sampled_params(train=False), torch.no_grad():
                    module(x)
        optimizer.step()
        loss = sum(losses) / draws
    state = [optimizer.state[p]["hessian"] for p in module.parameters()]
    return copies(module.parameters()) + state, loss


@pytest.mark.parametrize("draws", [1, 2, 3])
@pytest.mark.parametrize("how", ["closure", "shares", "with a prediction between"])
def test_every_way_to_take_draws_is_the_same_step(draws: int, how: str) -> None:
    expected, loss = gradients_of(draws, "blocks")
    found, own = gradients_of(draws, how)
    assert own == pytest.approx(loss, rel=1e-12)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_accumulated_gradients_are_those_of_the_whole_batch() -> None:
    found = []
    for pieces in (1, 4):
        module, (x, y) = net(), batch(20)
        optimizer = IVON(module.parameters(), lr=0.3, ess=20.0, betas=(0.9, 0.9), seed=3)
        for _ in range(3):
            optimizer.zero_grad()
            with optimizer.sampled_params():
                for a, b in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
                    (F.cross_entropy(module(a), b) / pieces).backward()
            optimizer.step()
        found.append(copies(module.parameters()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_micro_batches_of_vogn_are_the_whole_batch() -> None:
    found = []
    for pieces in (1, 4):
        module, (x, y) = net(), batch(20)
        optimizer = VOGN(module.parameters(), lr=0.3, ess=20.0, betas=(0.9, 0.9), seed=3)
        for _ in range(3):
            optimizer.zero_grad()
            with optimizer.sampled_params():
                for a, b in zip(x.chunk(pieces), y.chunk(pieces), strict=True):
                    optimizer.backward(module, F.cross_entropy, a, b, weight=1 / pieces)
            optimizer.step()
        found.append(copies(module.parameters()))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_zero_grad_within_the_block_keeps_its_draw_and_drops_earlier_ones() -> None:
    found = []
    for earlier in (False, True):
        w = nn.Parameter(torch.zeros(3))
        optimizer = IVON([w], lr=0.3, ess=20.0, betas=(0.9, 0.9), seed=3)
        with optimizer.sampled_params():
            quadratic(w).backward()
        if not earlier:
            optimizer.zero_grad()
        with optimizer.sampled_params():
            optimizer.zero_grad()
            quadratic(w).backward()
        optimizer.step()
        found.append([w.detach(), optimizer.state[w]["hessian"]])
    assert all(map(torch.equal, *found))


def test_a_block_without_a_gradient_is_no_draw() -> None:
    found = []
    for idle in (False, True):
        w = nn.Parameter(torch.zeros(3))
        optimizer = IVON([w], lr=0.3, ess=20.0, betas=(0.9, 0.9), seed=3)
        with optimizer.sampled_params(), torch.no_grad():
            quadratic(w)
        if not idle:
            optimizer.zero_grad()
        with optimizer.sampled_params():
            quadratic(w).backward()
        optimizer.step()
        found.append([w.detach(), optimizer.state[w]["hessian"]])
    assert all(map(torch.equal, *found))


@pytest.mark.parametrize("how", ["unfrozen", "added"])
def test_a_weight_that_joins_at_the_second_draw_was_at_its_mean_at_the_first(how: str) -> None:
    v, w = (nn.Parameter(torch.full((3,), 0.2 * n)) for n in range(2))
    w.requires_grad_(how == "added")
    own = [v, w] if how == "unfrozen" else [v]
    optimizer = IVON(own, lr=0.3, ess=20.0, betas=(0.0, 0.0), hessian_init=1.0, seed=3)
    draws, gradients = [], []
    for _ in range(2):
        with optimizer.sampled_params():
            draws.append(w.detach().clone())
            quadratic(v + w).backward()
            gradients.append(torch.zeros(3) if w.grad is None else w.grad.clone())
        w.requires_grad_()
        if how == "added" and len(draws) == 1:
            optimizer.add_param_group({"params": [w]})
    mean, precision = w.detach().clone(), 20.0 * (1.0 + 1e-4)
    assert torch.equal(draws[0], mean)
    estimate = (draws[1] - mean) * (gradients[1] - gradients[0]) * precision / 2
    optimizer.step()
    gap = 1.0 - estimate
    expected = 1.0 - gap + 0.5 * gap.square() / (1.0 + 1e-4)
    torch.testing.assert_close(optimizer.state[w]["hessian"], expected)


# -------------------------------------------------------------------------------------- parts


@pytest.mark.parametrize("limit", [1, 7, 64, 10**6])
def test_parts_hold_every_element_once(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("CPU_PART", "DEVICE_PART"):
        monkeypatch.setattr(parts_module, part, limit)
    shapes = [(), (5,), (0,), (3, 4), (130,), (2, 3, 4, 5), (7, 11)]
    tensors = [torch.zeros(s) for s in shapes] + [torch.zeros(6, 9).mT]
    others = [torch.full_like(t, 3.0) for t in tensors]
    for mine, three in in_parts(tensors, others):
        whole = len(mine) == 1 and not mine[0].is_contiguous()
        assert sum(t.numel() for t in mine) <= max(limit, 54 if whole else limit)
        torch._foreach_add_(mine, three)
    assert all(bool((t == 3).all()) for t in tensors)


def test_the_size_of_parts_changes_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for limit in (16, 10**6):
        for part in ("CPU_PART", "DEVICE_PART"):
            monkeypatch.setattr(parts_module, part, limit)
        w = nn.Parameter(torch.ones(12, 12))
        optimizer = IVON([w], lr=0.3, ess=1e9, betas=(0.9, 0.9), seed=3)
        train(optimizer, lambda w=w: w.sin().sum(), 5)  # type: ignore[misc]
        found.append(w.detach())
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_layouts_of_memory_change_no_step() -> None:
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        module = nn.Conv2d(3, 4, 3).to(memory_format=layout)  # type: ignore[call-overload]
        x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))
        optimizer = IVON(module.parameters(), lr=0.1, ess=1e12, seed=0)
        train(optimizer, lambda m=module, x=x: m(x).square().mean(), 5)  # type: ignore[misc]
        found.append(module.weight.detach().contiguous())
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


# ----------------------------------------------------------------------------- short formats


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_short_formats_have_a_state_in_float32(dtype: torch.dtype) -> None:
    w = nn.Parameter(torch.ones(300, dtype=dtype))
    optimizer = IVON([w], lr=1e-3, ess=1e6, hessian_init=1.0, seed=0)
    for _ in range(20):  # each step is less than half of bfloat16's distance at 1
        optimizer.zero_grad()
        with optimizer.sampled_params():
            w.sum().backward()
        optimizer.step()
    state = optimizer.state[w]
    assert {state[k].dtype for k in ("mean", "momentum", "hessian")} == {torch.float32}
    torch.testing.assert_close(state["mean"], torch.full((300,), 0.98).float(), rtol=4e-3, atol=0)
    assert torch.equal(state["mean"].to(dtype), w.detach())


def test_the_curvature_of_bfloat16_weights_has_no_bias() -> None:
    """Noise below the format's own distance: the draw that counts is the one before rounding."""
    w = nn.Parameter(torch.ones(40_000, dtype=torch.bfloat16))
    optimizer = IVON([w], lr=0.0, ess=1e4, hessian_init=1.0, betas=(0.9, 0.0), seed=0)
    optimizer.param_groups[0]["betas"] = (0.9, 0.99)
    for _ in range(300):
        optimizer.zero_grad()
        with optimizer.sampled_params():
            (0.5 * 2.0 * (w.float() - 1.0).square()).sum().backward()
        optimizer.step()
    assert float(optimizer.state[w]["hessian"].mean()) == pytest.approx(2.0, rel=0.1)


def test_a_rounded_parameter_that_was_set_from_outside_is_taken_up() -> None:
    w = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    optimizer = IVON([w], lr=0.1, ess=20.0)
    train(optimizer, lambda: w.float().sum(), 2)
    with torch.no_grad():
        w[1] = 7.0
    kept = optimizer.state[w]["mean"].clone()
    with optimizer.sampled_params():
        pass
    assert optimizer.state[w]["mean"].tolist() == [kept[0], 7.0, kept[2]]
    assert w[1] == 7.0
