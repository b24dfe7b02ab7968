# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Regression on rows that are made as they are read, and never in memory together."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr import BLR, Parts
from pyro_blr.guides import AutoNatural

from .machine import ROOT
from .memory import kilobytes
from .rows import Check, Row, Settings

NAME = "out_of_core"
D = 8
#: Megabytes of the whole process at its peak, whatever the number of rows: torch and Pyro take 400,
#: and a part of a million rows 72 for itself and a few times that while it is folded.
MEMORY = 1200.0
#: Of the posterior against normal equations that were added up in float64.
ACCURACY = 1e-10
#: The prior of the precision of the noise.
SHAPE, RATE = 2.0, 1.0


def run(settings: Settings) -> Iterator[Row]:
    """One process, whose peak of memory is its own."""
    count, size = (5, 2_000) if settings.tiny else (100, 1_000_000)
    command = [sys.executable, "-m", "benchmarks.out_of_core", str(count), str(size)]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = json.loads(output.splitlines()[-1])
    yield Row(
        NAME,
        f"one pass over {count} parts of {size} rows, D={D}",
        Check("MB at the peak", found["megabytes"], MEMORY),
        [
            Check("relative error of E[w]", found["mean"], ACCURACY),
            Check("of its precision", found["precision"], ACCURACY),
            Check("of E[tau]", found["tau"], ACCURACY),
            Check("not converged", found["not_converged"], 0),
            Check("steps", found["steps"], 1),
        ],
        {"fit": [found["fit"]], "normal equations": [found["equations"]]},
        f"fit {found['fit']:.1f} s, making the rows and their normal equations "
        f"{found['equations']:.1f} s",
    )


def model(X: Tensor, y: Tensor) -> None:
    """Weights and the precision of the noise with their conjugate prior."""
    tau = pyro.sample("tau", dist.Gamma(SHAPE, RATE))
    w = pyro.sample("w", dist.Normal(torch.zeros(D), tau.rsqrt()).to_event(1))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(X @ w, tau.rsqrt()), obs=y)


@dataclass(frozen=True)
class Rows:
    """Parts that are made anew, and alike, each time they are read."""

    count: int
    size: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        truth = torch.linspace(-1.0, 1.0, D)
        for number in range(self.count):
            generator = torch.Generator().manual_seed(number)
            X = torch.randn(self.size, D, generator=generator)
            yield X, X @ truth + 0.5 * torch.randn(self.size, generator=generator)


def equations(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """``X'X``, ``X'y`` and ``y'y``."""
    xx, xy, yy = torch.zeros(D, D), torch.zeros(D), torch.zeros(())
    for X, y in rows:
        xx += X.mT @ X
        xy += X.mT @ y
        yy += y @ y
    return xx, xy, yy


def measured(count: int, size: int) -> dict[str, float]:
    """What a fit took, and how far it is from the posterior in closed form."""
    rows = Rows(count, size)
    guide = AutoNatural(model)
    start = time.perf_counter()
    fit = BLR(model, guide).fit(Parts(rows))
    between = time.perf_counter()
    megabytes = kilobytes("VmHWM") / 1000
    xx, xy, yy = equations(rows)
    end = time.perf_counter()
    precision = torch.eye(D) + xx
    mean = torch.linalg.solve(precision, xy)
    shape = SHAPE + 0.5 * count * size
    rate = RATE + 0.5 * (yy - xy @ mean)
    weights, noise = guide.marginal("w"), guide.marginal("tau")
    # The marginal is a Student t, whose scale matrix is rate / shape times the inverse precision.
    scale = weights.scale_tril @ weights.scale_tril.mT
    expected = rate / shape * torch.linalg.inv(precision)
    return {
        "megabytes": megabytes,
        "mean": float((weights.mean - mean).norm() / mean.norm()),
        "precision": float((scale - expected).norm() / expected.norm()),
        "tau": float((noise.mean * rate / shape - 1).abs()),
        "not_converged": float(not fit.converged),
        "steps": fit.steps,
        "fit": between - start,
        "equations": end - between,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    print(json.dumps(measured(int(sys.argv[1]), int(sys.argv[2]))))
