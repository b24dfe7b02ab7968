# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""IVON against AdamW on one GPU: a step of 1e8 and of 1e9 weights, and a net of GPT-2's shape."""

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from pyro_blr.optim import IVON

from . import gpt
from .rows import Check, Row, Settings, Skipped
from .timing import ratio

NAME = "optimisers_gpu"
STEP_LIMIT, TRAINING_LIMIT, MEMORY_LIMIT = 3.0, 1.15, 1.0
#: Memory that 1e9 weights need: five numbers each, and what a step holds on its way.
LARGE_BYTES = 30e9
GPT_SECONDS, SENTENCES, LENGTH = 60.0, 8, 1024
#: Sentences of the language, and some that are not in the training.
TRAINING, HELD_OUT = 8192, 32
TINY = gpt.Shape(vocabulary=50, context=16, width=16, heads=2, layers=2)


def run(settings: Settings) -> Iterator[Row]:
    """All rows; on the CPU only as a test of the code."""
    if not (settings.tiny or torch.cuda.is_available()):
        raise Skipped("there is no GPU that torch sees")
    tiny = settings.tiny
    device = torch.device("cpu" if tiny else "cuda")
    yield step_alone(device, 10**4 if tiny else 10**8, 1 if tiny else 20)
    if tiny or torch.cuda.get_device_properties(0).total_memory > LARGE_BYTES:
        yield large(device, 10**5 if tiny else 10**9)
    shape, sizes = (TINY, (2, 8)) if tiny else (gpt.Shape(), (SENTENCES, LENGTH))
    yield training_step(device, shape, sizes, 1 if tiny else 10)
    yield language(device, shape, sizes, 0.2 if tiny else GPT_SECONDS)


# ---------------------------------------------------------------------------- one step by itself


def wait(device: torch.device) -> None:
    """Until the device has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def in_turn(
    device: torch.device, repeats: int, **functions: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of each function, one after the other, after a first call of each."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(repeats + 1):
        for name, function in functions.items():
            wait(device)
            start = time.perf_counter()
            function()
            wait(device)
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def peak(device: torch.device, function: Callable[[], None]) -> float:
    """Bytes that a function holds at its fullest, beyond what was held before; 0 on a CPU."""
    if device.type != "cuda":
        function()
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    function()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - before)


def weights(size: int, device: torch.device) -> nn.Parameter:
    """Random weights with a gradient."""
    parameter = nn.Parameter(torch.randn(size, device=device, dtype=torch.float32))
    parameter.grad = torch.randn_like(parameter)
    return parameter


def draw_and_step(optimizer: IVON) -> None:
    """A draw and a step on the gradients that are there."""
    with optimizer.sampled_params():
        pass
    optimizer.step()


def step_alone(device: torch.device, size: int, repeats: int) -> Row:
    """Against AdamW's step and one call of ``normal_``."""
    first, second = weights(size, device), weights(size, device)
    adam = torch.optim.AdamW([first], foreach=True)
    ivon = IVON([second], lr=0.1, ess=1e4)
    noise = torch.empty(size, device=device, dtype=torch.float32)

    def adam_and_noise() -> None:
        adam.step()
        noise.normal_()

    held = peak(device, lambda: draw_and_step(ivon)) - peak(device, adam.step)
    times = in_turn(device, repeats, AdamW=adam_and_noise, IVON=lambda: draw_and_step(ivon))
    is_real = device.type == "cuda"
    return Row(
        NAME,
        f"a step of {size:.0e} weights",
        Check(
            "x AdamW + normal_", ratio(times["IVON"], times["AdamW"]), limit(STEP_LIMIT, is_real)
        ),
        [Check("buffers over AdamW", held / (4 * size), limit(MEMORY_LIMIT, is_real))],
        times,
    )


def limit(value: float, is_real: bool) -> float | None:
    """A limit, where figures mean something."""
    return value if is_real else None


def large(device: torch.device, size: int) -> Row:
    """One draw and step of very many weights."""
    parameter = weights(size, device)
    ivon = IVON([parameter], lr=0.1, ess=1e4)
    held = peak(device, lambda: draw_and_step(ivon)) / (4 * size)
    times = in_turn(device, 1, IVON=lambda: draw_and_step(ivon))
    moved = statistics.mean(times["IVON"])
    finite = float(parameter.detach().isfinite().all())
    return Row(
        NAME,
        f"a step of {size:.0e} weights, IVON alone",
        Check("seconds", moved),
        [
            Check("finite", finite, 1.0, "at least"),
            Check("buffers beside weight and gradient", held),
        ],
        times,
    )


# ------------------------------------------------------------------------------ a language model


def optimisers(net: nn.Module, kind: str) -> Any:
    """AdamW as GPT-2 is trained with it; IVON with the settings of its paper for it."""
    if kind == "AdamW":
        options: dict[str, Any] = {"lr": 6e-4, "betas": (0.9, 0.95), "weight_decay": 0.1}
        return torch.optim.AdamW(net.parameters(), foreach=True, **options)
    options = {"lr": 0.3, "ess": 1e10, "hessian_init": 1e-3, "weight_decay": 1e-6}
    return IVON(net.parameters(), clip_radius=1e-3, seed=0, **options)


def training(
    kind: str, device: torch.device, shape: gpt.Shape, sizes: tuple[int, int]
) -> tuple[Callable[[], torch.Tensor], nn.Module]:
    """A function that takes a step on new text and returns the loss, and the net."""
    torch.manual_seed(0)
    net = gpt.GPT(shape).to(device=device, dtype=torch.float32)
    count, length = sizes
    text = gpt.Language(shape.vocabulary, device, TRAINING, length)
    optimizer = optimisers(net, kind)

    def step() -> torch.Tensor:
        tokens, following = text.batch(count)
        optimizer.zero_grad()
        if isinstance(optimizer, IVON):
            with optimizer.sampled_params():
                value = gpt.loss(net, tokens, following)
                value.backward()
        else:
            value = gpt.loss(net, tokens, following)
            value.backward()
        optimizer.step()
        return value.detach()

    return step, net


def training_step(
    device: torch.device, shape: gpt.Shape, sizes: tuple[int, int], repeats: int
) -> Row:
    """A whole step of the language model."""
    steps = {kind: training(kind, device, shape, sizes)[0] for kind in ("AdamW", "IVON")}
    times = in_turn(device, repeats, **steps)  # type: ignore[arg-type]
    bound = limit(TRAINING_LIMIT, device.type == "cuda")
    return Row(
        NAME,
        "a training step of GPT-2's shape",
        Check("x AdamW", ratio(times["IVON"], times["AdamW"]), bound),
        seconds=times,
        note=f"{sizes[0]} x {sizes[1]} tokens",
    )


@torch.no_grad()
def new_loss(
    net: nn.Module, device: torch.device, shape: gpt.Shape, sizes: tuple[int, int]
) -> float:
    """The mean loss of sentences of the same language that were not in the training."""
    text = gpt.Language(shape.vocabulary, device, TRAINING, sizes[1])
    losses = []
    for _ in range(HELD_OUT // sizes[0]):
        tokens, following = text.made(sizes[0], sizes[1])
        losses.append(float(gpt.loss(net, tokens, following)))
    return statistics.mean(losses)


def language(device: torch.device, shape: gpt.Shape, sizes: tuple[int, int], seconds: float) -> Row:
    """The loss at the mean weights after equal times, and on the way there."""
    final, quality, size = {}, [], 0
    for kind in ("AdamW", "IVON"):
        step, net = training(kind, device, shape, sizes)
        size = sum(p.numel() for p in net.parameters())
        losses, clock = [float(step())], time.perf_counter()
        marks, passed = [0.0], 0.0
        while passed < seconds:
            losses.append(float(step()))  # waits for the device
            passed = time.perf_counter() - clock
            marks.append(passed)
        for share in (0.25, 0.5):
            place = next(i for i, mark in enumerate(marks) if mark >= share * seconds)
            recent = losses[max(place - 10, 0) : place + 1]
            quality.append(Check(f"{kind} at {share * seconds:g} s", statistics.mean(recent)))
        final[kind] = new_loss(net, device, shape, sizes)
        quality += [
            Check(f"{kind} steps", float(len(losses))),
            Check(f"{kind} at end", final[kind]),
        ]
    return Row(
        NAME,
        f"{size / 1e6:.0f} million weights of GPT-2's shape, {seconds:g} s each",
        Check("loss in nats, IVON - AdamW", final["IVON"] - final["AdamW"]),
        quality,
        note="on text of a made-up language, 2.08 nats a token at best",
    )
