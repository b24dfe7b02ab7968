# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""IVON and VOGN against AdamW: time of a step, of a training step, memory, and calibration."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyro_blr.optim import IVON, VOGN

from . import digits
from .memory import peak
from .rows import Check, Row, Settings
from .timing import in_turn, ratio

NAME = "optimisers"
WEIGHTS, TINY_WEIGHTS = 10**7, 10**4
STEP_LIMIT, TRAINING_LIMIT, MEMORY_LIMIT = 3.0, 1.4, 1.0
BATCH = 64


def run(settings: Settings) -> Iterator[Row]:
    """The step alone, whole training steps of two nets, and the digits of scikit-learn."""
    yield step_alone(TINY_WEIGHTS if settings.tiny else WEIGHTS, 1 if settings.tiny else 7)
    for name, (make, limit) in NETS.items():
        if settings.tiny:
            yield training_step(name, make, None, 1, 1)
        else:
            yield training_step(name, make, limit, 9, 5)
    for name in digits.NETS:
        yield digits.row(NAME, name, settings.tiny)


def step_alone(size: int, repeats: int) -> Row:
    """A draw and a step, without a net, against AdamW's and one call of ``normal_``."""
    first, second = weights(size), weights(size)
    adam = torch.optim.AdamW([first], foreach=True)
    ivon = IVON([second], lr=0.1, ess=1e4)
    noise = torch.empty(size, dtype=torch.float32)

    def adam_and_noise() -> None:
        adam.step()
        noise.normal_()

    def draw_and_step() -> None:
        with ivon.sampled_params():
            pass
        ivon.step()

    extra = peak(draw_and_step, 4 * size) - peak(adam.step, 4 * size)
    times = in_turn(repeats, AdamW=adam_and_noise, IVON=draw_and_step)
    limits = (STEP_LIMIT, MEMORY_LIMIT) if size == WEIGHTS else (None, None)
    return Row(
        NAME,
        f"a step of {size:.0e} weights",
        Check("x AdamW + normal_", ratio(times["IVON"], times["AdamW"]), limits[0]),
        [Check("buffers over AdamW", extra, limits[1])],
        times,
    )


def weights(size: int) -> nn.Parameter:
    """Random weights with a gradient."""
    parameter = nn.Parameter(torch.randn(size, dtype=torch.float32))
    parameter.grad = torch.randn(size, dtype=torch.float32)
    return parameter


def convolutional() -> nn.Module:
    """Two convolutions and two layers of 28 x 28 pixels: 421,642 weights."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 49, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def perceptron() -> nn.Module:
    """Three layers of 784 pixels: 669,706 weights, each used once a datum."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(784, 512), nn.ReLU()),
        *(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)),
    )


#: The limit is that of the net that uses its weights more than once a datum, as large nets do: in
#: the other one a step of any optimiser costs as much as the two passes.
NETS = {"conv": (convolutional, TRAINING_LIMIT), "MLP": (perceptron, None)}


def training_step(
    name: str,
    make: Callable[[], nn.Module],
    limit: float | None,
    repeats: int,
    in_a_row: int,
) -> Row:
    """Forward, backward and step on one batch; VOGN's for information."""
    x = torch.randn(BATCH, 1, 28, 28, dtype=torch.float32)
    y = torch.randint(10, (BATCH,))
    runs = {kind: training(kind, make().float(), x, y) for kind in ("AdamW", "IVON", "VOGN")}
    vogn = {"VOGN": runs.pop("VOGN")}
    times = in_turn(repeats, in_a_row, **runs) | in_turn(1, 1, **vogn)
    found = ratio(times["IVON"], times["AdamW"])
    slower = ratio(times["VOGN"], times["AdamW"][:1])
    return Row(
        NAME,
        f"a training step of the {name} net, batch {BATCH}",
        Check("x AdamW", found, limit),
        [Check("VOGN x AdamW", slower)],
        times,
    )


def training(kind: str, net: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """A training step, after a first one."""
    parameters = list(net.parameters())
    adam = torch.optim.AdamW(parameters, foreach=True)
    ivon, vogn = IVON(parameters, lr=0.1, ess=1e4), VOGN(parameters, lr=1e-3, ess=1e4)

    def with_adam() -> None:
        adam.zero_grad()
        F.cross_entropy(net(x), y).backward()
        adam.step()

    def with_ivon() -> None:
        ivon.zero_grad()
        with ivon.sampled_params():
            F.cross_entropy(net(x), y).backward()
        ivon.step()

    def with_vogn() -> None:
        vogn.zero_grad()
        with vogn.sampled_params():
            vogn.backward(net, F.cross_entropy, x, y, chunk_size=16)
        vogn.step()

    step = {"AdamW": with_adam, "IVON": with_ivon, "VOGN": with_vogn}[kind]
    step()
    return step
