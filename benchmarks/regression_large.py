# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Regression with Gamma noise on many rows: a whole fit against one product ``X.T @ X``."""

import statistics
import subprocess
import sys
from collections.abc import Iterator

import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from .machine import ROOT
from .regression import Posterior, Statistics, data, model
from .rows import Check, Row, Settings
from .timing import fresh, in_turn, ratio, seconds

NAME = "regression_large"
D = 100
#: By dtype: products X.T @ X that a fit may cost, relative accuracy of the posterior mean, and nats
#: of the ELBO. float32 carries 6e-8 relative, and 1e-4 of a posterior is what the package promises.
LIMITS = {torch.float64: (3.0, 1e-10, 1e-6), torch.float32: (6.0, 1e-4, 1e-2)}
#: Steps that may differ from later ones: the first folds the constants, the second is the first to
#: find them folded.
WARM_STEPS = 2


def run(settings: Settings) -> Iterator[Row]:
    """Whole fits in both dtypes, the first use in a process, steps by the number of rows."""
    N = 2_000 if settings.tiny else 200_000
    yield first_use_row(settings, N)
    for dtype in LIMITS:
        yield whole_fit(settings, N, dtype)
    yield steps_by_rows([N // 100, N // 10, N], 3 if settings.tiny else 20)


def fit(X: Tensor, y: Tensor) -> tuple[AutoNatural, object]:
    """What is timed: a new guide and a new engine, to `converged`."""
    guide = AutoNatural(model)
    return guide, BLR(model, guide).fit(X, y)


def whole_fit(settings: Settings, N: int, dtype: torch.dtype) -> Row:
    """A second BLR in a warm process; each fit has data of its own, which nothing has seen."""
    repeats = 2 if settings.tiny else 7
    X, y = data(N, D, dtype)
    fit(*data(N, D, dtype, seed=1))
    times: dict[str, list[float]] = {"fit": [], "X.T @ X": []}
    for _ in range(repeats):
        fresh()
        own = X.clone(), y.clone()
        product = seconds(lambda: X.T @ X)[0]
        elapsed, (guide, result) = seconds(lambda own=own: fit(*own))
        product = (product + seconds(lambda: X.T @ X)[0]) / 2
        times["fit"].append(elapsed)
        times["X.T @ X"].append(product)
    limit, accuracy, nats = LIMITS[dtype]
    return Row(
        NAME,
        f"fit, N={N} D={D} {str(dtype).removeprefix('torch.')}",
        Check("x one X.T @ X", ratio(times["fit"], times["X.T @ X"]), limit),
        [*quality(guide, X, y, accuracy, nats), Check("not converged", not result.converged, 0)],
        times,
        f"fit {statistics.median(times['fit']):.3f} s, "
        f"X.T @ X {statistics.median(times['X.T @ X']):.3f} s, {result.steps} steps",
    )


def quality(guide: AutoNatural, X: Tensor, y: Tensor, accuracy: float, nats: float) -> list[Check]:
    """The posterior against coordinate ascent with float64 normal equations."""
    statistics_ = Statistics(X, y)
    exact, reached = statistics_.solve(), Posterior.of_guide(guide)
    error = float((reached.mean - exact.mean).norm() / exact.mean.norm())
    precision = abs(reached.shape / reached.rate / (exact.shape / exact.rate) - 1)
    gap = abs(statistics_.elbo(exact) - statistics_.elbo(reached))
    return [
        Check("relative error of E[w]", error, accuracy),
        Check("of E[tau]", precision, accuracy),
        Check("ELBO gap in nats", gap, nats),
    ]


def first_use_row(settings: Settings, N: int) -> Row:
    """The first fit of a process that has only imported the package; no limit."""
    code = f"from benchmarks.regression_large import first_use; first_use({N}, {settings.threads})"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    first, second = map(float, output.split()[-2:])
    return Row(
        NAME,
        f"first fit of a process, N={N} D={D} float64",
        Check("s", first),
        seconds={"first": [first], "second": [second]},
        note=f"the second fit {second:.3f} s",
    )


def first_use(N: int, threads: int) -> None:
    """Print the seconds of the first and of the second fit of this process."""
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float64)
    X, y = data(N, D)
    first = seconds(lambda: fit(X, y))[0]
    X, y = data(N, D, seed=1)
    fresh()
    print(first, seconds(lambda: fit(X, y))[0])


def steps_by_rows(sizes: list[int], repeats: int) -> Row:
    """Steps after the second, which must not depend on the number of rows."""
    fresh()
    steps = {}
    for N in sizes:
        X, y = data(N, D)
        engine = BLR(model, AutoNatural(model))
        steps[f"N={N}"] = lambda engine=engine, X=X, y=y: engine.step(X, y)
    in_turn(WARM_STEPS, **steps)
    times = in_turn(repeats, **steps)
    smallest, *_, largest = times.values()
    medians = ", ".join(f"{k} {1e3 * statistics.median(v):.2f} ms" for k, v in times.items())
    return Row(
        NAME,
        f"later steps, N={sizes[-1]} to N={sizes[0]}",
        Check("x", ratio(largest, smallest), 1.5),
        seconds=times,
        note=medians,
    )
