# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What the processes of a test do, and what they found: numbers and texts by name."""

import math
import os
import pickle
import signal
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.distributed as distributed
from pyro.infer.autoguide import AutoIAFNormal
from torch import Tensor

from pyro_blr import BLR, Parts, errors
from pyro_blr.arviz import to_arviz
from pyro_blr.diagnostics import report
from pyro_blr.fit import Fit
from pyro_blr.guides import AutoNatural, AutoNaturalLowRankMultivariateNormal
from pyro_blr.nn import bayesian

from .models import EXAMPLES, LOCAL, Example, N, X, Y, logistic, poisson, regression, topics

#: Rows of the first process; the second has the others.
FIRST = 14


def rows(rank: int, size: int) -> slice:
    """The rows of a process: of two, parts of different sizes."""
    if size == 1:
        return slice(0, N)
    return (slice(0, FIRST), slice(FIRST, N))[rank]


def started(example: Example, **options: Any) -> BLR:
    pyro.clear_param_store()
    guide = AutoNatural(example.model)
    guide.set_natural(example.start())
    return BLR(example.model, guide, **{**example.options, **options})


def close(found, expected, tolerance: float) -> None:
    """Posteriors, or messages, are the same to a relative tolerance."""
    assert found.keys() == expected.keys()
    for name, tensors in expected.items():
        for own, other in zip(found[name], tensors, strict=True):
            torch.testing.assert_close(own, other, rtol=tolerance, atol=tolerance)


def naturals(blr: BLR) -> dict[str, list[Tensor]]:
    """The posterior, and the parameters."""
    found = {b.name: [t.clone() for t in n] for b, n in blr.guide.naturals().items()}
    for name in ("z", "e"):  # of the rows' own
        found.pop(name, None)
    params = {f"param {n}": [v.detach().clone()] for n, v in pyro.get_param_store().items()}
    return {**found, **{n: v for n, v in params.items() if "natural" not in n}}


#: Of these steps are enough; the others are fitted too.
STEPPED = ("hierarchy", "poisson", "learnt")


def run(name: str, where: slice, **options: Any) -> dict[str, Any]:
    """Two steps, then a fit."""
    example = {**EXAMPLES, **LOCAL}[name]
    pyro.set_rng_seed(3)
    blr = started(example, **options)
    args = example.part(where)
    losses = [blr.step(*args) for _ in range(2)]
    after = naturals(blr)
    fit = Fit() if name in STEPPED else blr.fit(*args, max_steps=30)
    return {
        "losses": losses,
        "steps": after,
        "messages": {n: list(m) for n, m in blr.messages(*args).items() if n in after},
        "fit": naturals(blr),
        "converged": fit.converged,
        "gap": fit.gap,
        "loss": blr.evaluate_loss(*args),
    }


def every_example(rank: int, size: int, folder: Path) -> dict[str, Any]:
    group = distributed.group.WORLD
    return {name: run(name, rows(rank, size), process_group=group) for name in (*EXAMPLES, *LOCAL)}


def everything(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """Both, in one pair of processes."""
    return {
        "examples": every_example(rank, size, folder),
        "mistakes": mistakes(rank, size, folder),
    }


# What goes wrong on the second process alone


def said(call: Callable[[], Any]) -> str:
    """What a call ended with."""
    pyro.clear_param_store()
    try:
        return repr(call())
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def fitted(model: Any, *args: Any, guide: Any = None, **options: Any) -> float:
    guide = AutoNatural(model) if guide is None else guide
    blr = BLR(model, guide, process_group=distributed.group.WORLD, **options)
    blr.fit(*args, max_steps=3)
    return blr.evaluate_loss(*args)


def unlike(x: Tensor, y: Tensor) -> None:
    """The regression with a latent more."""
    pyro.sample("more", dist.Normal(0.0, 1.0))
    regression(x, y)


def prior_of_the_rows(x: Tensor, y: Tensor) -> None:
    """A prior that is made of the process's own rows."""
    w = pyro.sample("w", dist.Normal(0.0, y.std()))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(w, 1.0), obs=y)


def broken(x: Tensor, y: Tensor) -> None:
    regression(x, y)
    raise KeyError("a mistake in the model")


def subsampled(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y), subsample_size=3) as rows:
        pyro.sample("y", dist.Normal(w, 1.0), obs=y[rows])


def improper(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(y)):
        pyro.factor("y", w**2)


class Sometimes:
    """A model that is NaN when it is run the third time."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, x: Tensor, y: Tensor) -> None:
        self.runs += 1
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(w, 1.0), obs=y + (math.nan if self.runs == 6 else 0.0))


def _skipping(second: bool, x: Tensor, y: Tensor) -> tuple[int, list[bool]]:
    plain = Sometimes()
    plain.runs = 0 if second else -(10**6)
    blr = BLR(plain, AutoNatural(plain), process_group=distributed.group.WORLD)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", errors.SkippedStepWarning)
        losses = [blr.step(x, y) for _ in range(6)]
    return blr.skipped, [math.isnan(loss) for loss in losses]


def _other_call(second: bool, x: Tensor, y: Tensor) -> float:
    blr = BLR(regression, AutoNatural(regression), process_group=distributed.group.WORLD)
    return (blr.evaluate_loss if second else blr.step)(x, y) + blr.evaluate_loss(x, y)


def _other_state(second: bool, x: Tensor, y: Tensor) -> float:
    blr = BLR(regression, AutoNatural(regression), process_group=distributed.group.WORLD)
    blr.step(x, y)
    if second:
        blr.guide.set_natural({"w": dist.MultivariateNormal(torch.zeros(3), torch.eye(3))})
    return blr.step(x, y)


def _resumed(x: Tensor, y: Tensor) -> bool:
    """Whether a run that is resumed on both goes on as one that was not stopped, bit for bit."""
    runs = []
    group = distributed.group.WORLD
    for stopped in (False, True):
        pyro.clear_param_store()
        pyro.set_rng_seed(2)
        blr = BLR(poisson, AutoNatural(poisson), process_group=group)
        losses = [blr.step(x, y) for _ in range(2)]
        if stopped:
            state = blr.state_dict()
            pyro.clear_param_store()
            blr = BLR(poisson, AutoNatural(poisson), process_group=group)
            blr.load_state_dict(state)
        runs.append(losses + [blr.step(x, y) for _ in range(2)])
    return runs[0] == runs[1]


def _with_topics(rank: int, size: int) -> bool:
    words = (torch.arange(6 * N).reshape(N, 6) * 7 // 3 % 3).double()[rows(rank, size)]
    blr = BLR(topics, AutoNatural(topics), process_group=distributed.group.WORLD, sharded="data")
    losses = [blr.step(words) for _ in range(5)]
    return all(b <= a + 1e-9 for a, b in pairwise(losses))


def _refused(x: Tensor, y: Tensor) -> list[str]:
    blr = BLR(regression, AutoNatural(regression), process_group=distributed.group.WORLD)
    blr.step(x, y)
    calls: list[Callable[[], Any]] = [
        lambda: blr.influence(x, y),
        lambda: blr.trace_report(x, y),
        lambda: pickle.dumps(blr),
        lambda: to_arviz(blr, x, y),
        lambda: report(blr, x, y),
    ]
    return [said(call) for call in calls]


def _with_features(seed: int, *args: Tensor) -> float:
    """A last layer on frozen features."""
    torch.manual_seed(seed)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    model = bayesian(net, "regression", where="last", noise_scale=0.3)
    return fitted(model, *args)


class Broken:
    """A loader whose disk fails on one process, in the middle of its third pass."""

    def __init__(self, rows: tuple[Tensor, ...], fails: bool) -> None:
        self.rows, self.fails, self.passes = rows, fails, 0

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        self.passes += 1
        for start in (0, 3, 6):
            if self.fails and self.passes >= 4 and start == 6:
                raise OSError("the disk is gone")
            yield tuple(r[start : start + 3] for r in self.rows)


def _goes_on(second: bool, x: Tensor, y: Tensor, folder: Path) -> tuple[str, bool]:
    """What the call ended with, and whether made again it went on as if nothing had been."""
    group, runs, said_of = distributed.group.WORLD, [], ""
    for fails in (False, True):
        for again in (False, True)[: 1 + fails]:
            pyro.clear_param_store()
            pyro.set_rng_seed(2 + again)
            blr = BLR(poisson, AutoNatural(poisson), process_group=group)
            reader = Broken((x, y), second and fails and not again)
            parts = Parts(reader, checkpoint=folder / "sums" if fails else None)
            try:
                runs.append(blr.fit(parts, max_steps=3).losses)
            except (errors.ProcessError, OSError) as error:
                said_of = str(error)
    return said_of, runs[0] == runs[1]


def mistakes(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """What each mistake ends with; none of them keeps the next run from working."""
    second = rank == 1
    x, y = (t[rows(rank, size)] for t in (X, Y))
    nan = y.clone()
    nan[0] = math.nan if second else nan[0]
    models = {"other model": unlike, "mistake": broken}
    counts, far = y.abs().floor(), 1e4 if second else 1.0
    found = {
        "overflow": said(lambda: fitted(poisson, far * x, counts)),
        "nan": said(lambda: fitted(regression, x, nan)),
        "nan at once": said(lambda: fitted(logistic, x, 0.0 * nan)),
        "nan in a part": said(lambda: fitted(regression, Parts([(x, y), (x, nan)]))),
        "low rank": said(
            lambda: fitted(regression, x, y, guide=AutoNaturalLowRankMultivariateNormal(regression))
        ),
        "unlike data": said(
            lambda: fitted(regression, *((Parts([(x, y)]),) if second else (x, y)))
        ),
        "no rows": said(
            lambda: fitted(regression, x[: 0 if second else 5], y[: 0 if second else 5])
        ),
        "other call": said(lambda: _other_call(second, x, y)),
        "other state": said(lambda: _other_state(second, x, y)),
        "subsample": said(lambda: fitted(subsampled, x, y)),
        "drawn": said(lambda: fitted(regression, x, y, guide=AutoIAFNormal(regression))),
        "improper": said(lambda: fitted(improper, x, y)),
        "skipped": said(lambda: _skipping(second, x, y)),
        "other option": said(lambda: fitted(poisson, x, counts, step_size=0.5 + 0.5 * rank)),
        "resumed": said(lambda: _resumed(x, counts)),
        "goes on": said(lambda: _goes_on(second, x[:9], counts[:9], folder)),
        "prior of the rows": said(lambda: fitted(prior_of_the_rows, x, y)),
        "other features": said(lambda: _with_features(rank, x, y)),
        "features": said(lambda: _with_features(0, x, y)),
        "topics": said(lambda: _with_topics(rank, size)),
        "refused": said(lambda: _refused(x, y)),
    }
    for what, model in models.items():
        found[what] = said(lambda m=model: fitted(m if second else regression, x, y))
    found["good"] = said(lambda: fitted(regression, x, y))
    return found


# One is killed; the other, and who goes on


def killed(rank: int, size: int, folder: Path) -> dict[str, Any]:
    """The second process is killed in its third step."""
    example = EXAMPLES["softmax"]
    pyro.set_rng_seed(3)
    blr = started(example, process_group=distributed.group.WORLD)
    args = example.part(rows(rank, size))
    try:
        for step in range(5):
            if rank == 1 and step == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            blr.step(*args)
            if rank == 0:
                torch.save(blr.state_dict(), folder / "state.pt")
    except errors.ProcessError as error:
        return {"error": str(error), "again": said(lambda: blr.step(*args))}
    return {}
