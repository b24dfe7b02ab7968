# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A GPU against the CPU and against its own memory: regression and a mixture on ten million rows.

The CPU takes fewer rows, so that its side fits 24 GB. Where a step costs by the row its times are
multiplied up to the GPU's number of rows, and the notes say from how many; a later step of the
regression costs the same whatever the number of rows, and is compared as it is.
"""

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from . import gmm, regression
from .rows import Check, Row, Settings, Skipped
from .timing import fresh, seconds

NAME = "gpu"
ROWS, CPU_ROWS, TINY_ROWS = 10**7, 2 * 10**5, 400
COLUMNS, TINY_COLUMNS = 256, 8
#: Columns and classes of the mixture.
MIXTURE = (2, 10)
#: Numbers that are copied to measure the memory: 1 GiB of float32.
COPIED = 2**28
#: Rows that are drawn at a time, so that no second copy of the data is ever held.
CHUNK = 2**18


def run(settings: Settings) -> Iterator[Row]:
    """The copy, then both models; ``--tiny`` has the CPU stand for the GPU."""
    if not settings.tiny and not torch.cuda.is_available():
        raise Skipped("needs a GPU, and torch sees none on this machine; nothing was measured")
    device = torch.device("cpu" if settings.tiny else "cuda")
    numbers = 2**12 if settings.tiny else COPIED
    repeats = 1 if settings.tiny else 7
    speed = {d.type: bandwidth(d, numbers, repeats) for d in (torch.device("cpu"), device)}
    yield Row(
        NAME,
        f"copy of {4 * numbers / 2**30:.2g} GiB",
        Check(f"GB/s, {device.type}", speed[device.type] / 1e9),
        [Check("GB/s, cpu", speed["cpu"] / 1e9)],
        note=torch.cuda.get_device_name(device) if device.type == "cuda" else "",
    )
    N, few = (TINY_ROWS, TINY_ROWS) if settings.tiny else (ROWS, CPU_ROWS)
    for make in (regression_side, mixture_side):
        yield compared(make, device, N, few, speed[device.type], repeats)


@dataclass(frozen=True)
class Side:
    """A model on so many rows of one device.

    :param first_bytes: what a first step must read or write once; ``later_bytes`` a later one.
    :param by_rows: whether a later step costs by the row.
    """

    name: str
    step: Callable[[], Any]
    elbo: Callable[[], float]
    first_bytes: float
    later_bytes: float
    by_rows: bool


@dataclass(frozen=True)
class Times:
    """The seconds of the first step and of later ones, and the ELBO after them."""

    first: float
    later: list[float]
    elbo: float


def compared(
    make: Callable[[torch.device, int], Side],
    device: torch.device,
    N: int,
    few: int,
    speed: float,
    repeats: int,
) -> Row:
    """The first step, which folds what is constant, and later ones, on both sides.

    :param few: the rows of the CPU's side.
    """
    fresh()
    here = timed(make(torch.device("cpu"), few), torch.device("cpu"), repeats)
    fresh()
    side = make(device, N)
    there = timed(side, device, repeats)
    scale = N / few
    later_scale, later = scale if side.by_rows else 1.0, statistics.median(there.later)
    multiplied = "its times are" if side.by_rows else "that of its first step is"
    return Row(
        NAME,
        f"{side.name}, N={N:.0e}",
        Check("x the CPU, later steps", later_scale * statistics.median(here.later) / later),
        [
            Check("x, first step", scale * here.first / there.first),
            Check("% of a copy's bandwidth, first", 100 * side.first_bytes / there.first / speed),
            Check("%, later steps", 100 * side.later_bytes / later / speed),
            Check("ELBO a row less that of the CPU's data", there.elbo / N - here.elbo / few),
        ],
        {
            "first": [there.first],
            "later": there.later,
            "cpu first": [here.first],
            "cpu later": here.later,
        },
        f"the CPU's side is N={few:.0e}, {multiplied} multiplied by {scale:g}",
    )


def timed(side: Side, device: torch.device, repeats: int) -> Times:
    """Steps of a side, each waited for."""

    def waited() -> None:
        side.step()
        settle(device)

    settle(device)
    first = seconds(waited)[0]
    waited()  # the second step is the first to find the constants folded
    later = [seconds(waited)[0] for _ in range(repeats)]
    return Times(first, later, side.elbo())


def settle(device: torch.device) -> None:
    """Wait for whatever is queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bandwidth(device: torch.device, numbers: int, repeats: int) -> float:
    """Bytes a second of a copy, each number read once and written once."""
    source = torch.zeros(numbers, dtype=torch.float32, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)
        settle(device)

    copy()
    took = min(seconds(copy)[0] for _ in range(repeats))
    return 2 * 4 * numbers / took


def regression_side(device: torch.device, N: int) -> Side:
    """Regression with Gamma noise in float32; the data are read once, when they are folded."""
    D = COLUMNS if N > TINY_ROWS else TINY_COLUMNS
    X = torch.empty(N, D, dtype=torch.float32, device=device)
    y = torch.empty(N, dtype=torch.float32, device=device)
    w = torch.linspace(-1.0, 1.0, D, dtype=torch.float32, device=device)
    for rows in torch.arange(N, device="cpu").split(CHUNK):
        part = slice(int(rows[0]), int(rows[-1]) + 1)
        X[part].normal_()
        y[part].normal_().add_(X[part] @ w)
    engine = BLR(regression.model, AutoNatural(regression.model))
    bytes_read = 4.0 * N * (D + 1)
    return Side(
        f"regression, D={D} float32",
        lambda: engine.step(X, y),
        lambda: -engine.evaluate_loss(X, y),
        bytes_read,
        16.0 * D * D,  # X'X and the precision
        by_rows=False,
    )


def mixture_side(device: torch.device, N: int) -> Side:
    """A mixture with diagonal covariances: each step reads the data, and the responsibilities
    once, which it has written.
    """
    D, K = MIXTURE
    y = torch.empty(N, D, dtype=torch.float64, device=device).normal_()
    y += gmm.APART * torch.randint(K, (N, 1), device=device)

    def model(y: Tensor) -> None:
        gmm.diagonal_model(y, K)

    engine = BLR(model, AutoNatural(model))
    bytes_moved = 8.0 * N * (D + 2 * K)
    return Side(
        f"mixture, D={D} K={K}",
        lambda: engine.step(y),
        lambda: -engine.evaluate_loss(y),
        bytes_moved,
        bytes_moved,
        by_rows=True,
    )
