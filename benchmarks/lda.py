# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Latent Dirichlet allocation: a sweep against one of BayesPy, minibatches, a million tokens."""

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from .bayespy_sides import SAME_OPTIMUM, SAME_Q, Sides, loss
from .discrete import natural_of
from .machine import ROOT
from .rows import Check, Row, Settings
from .timing import ratio, seconds
from .topics import Hoffman, Sizes, document_model, draw, problem, start

NAME = "lda"
#: How many times as fast as BayesPy a sweep over 20,000 tokens must be.
LIMIT = 30.0
SWEEP, STOCHASTIC = Sizes(200, 100, 10, 1_000), Sizes(1_000, 60, 10, 200)
MILLION = Sizes(10_000, 100, 10, 1_000)
TINY = Sizes(8, 5, 2, 6)
TIMED_SWEEPS, BATCH, MILLION_BATCH = 5, 50, 500
#: GiB that a fit to a million tokens may take, the interpreter and torch included.
MEMORY = 4.0
#: Passes over the data, and how far below full batch the bound of a word may then be, relatively.
PASSES = {2: 1e-2, 10: 1e-3}
#: Orders of the minibatches. Some end in a neighbouring optimum of the topics.
SEEDS = 3
#: How far all starts of the stochastic fit lean to the topics that the words were drawn from.
TILT = 0.5
#: Rates (1 + t)^-FORGETTING of the fit by hand, in the range that Hoffman et al. recommend.
FORGETTING = 0.7


def run(settings: Settings) -> Iterator[Row]:
    """The sweep, the stochastic fit, the memory of a large one."""
    yield sweep_row(TINY if settings.tiny else SWEEP, 0.0 if settings.tiny else LIMIT)
    sizes, batch = (TINY, 4) if settings.tiny else (STOCHASTIC, BATCH)
    yield stochastic_row(sizes, batch, dict.fromkeys(PASSES) if settings.tiny else PASSES)
    yield memory_row(settings)


def sweep_row(sizes: Sizes, limit: float) -> Row:
    """Times of both sides, the bounds at BayesPy's q, and what BayesPy gains from our optimum.

    BayesPy takes seconds a sweep here and hundreds of sweeps to its optimum: instead of waiting it
    is set to ours.
    """
    sides = Sides(problem(sizes))
    sides.sweep(1)
    times = sides.sweep(TIMED_SWEEPS)
    same_q, theirs = sides.at_their_q()
    fit = sides.blr.fit(*sides.problem.args)
    optimum, gained = loss(sides), gain_of_bayespy(sides)
    return Row(
        NAME,
        f"sweep, {sizes}",
        Check("x faster than BayesPy", ratio(times["BayesPy"], times["BLR"]), limit, "at least"),
        [
            Check("relative ELBO difference at BayesPy's q", abs(same_q / theirs - 1), SAME_Q),
            Check("BayesPy gains from our optimum", gained / abs(optimum), SAME_OPTIMUM),
            Check("not converged", not fit.converged, 0),
        ],
        times,
        ", ".join(f"{k} {1e3 * statistics.median(v):.1f} ms" for k, v in times.items()),
    )


def gain_of_bayespy(sides: Sides) -> float:
    """Nats that one sweep of BayesPy raises the bound from the guide's q."""
    laws = {n: dist.Dirichlet(sides.guide.marginal(n).concentration) for n in ("theta", "phi")}
    engine, _ = sides.problem.bayespy(laws)
    engine.update(repeat=1, verbose=False, tol=None)
    return float(engine.L[0]) + loss(sides)


def stochastic_row(sizes: Sizes, batch: int, limits: Mapping[int, float | None]) -> Row:
    """The bound of a word after some passes over minibatches of documents."""
    words = draw(sizes)
    full = Hoffman(words, sizes, TILT)
    sweeps, best = full.settle(), full.bound_per_word()
    ours = [passes_of_blr(words, sizes, batch, seed) for seed in range(SEEDS)]
    hand = passes_by_hand(words, sizes, batch)

    def below(reached: float) -> float:
        return (best - reached) / abs(best)

    checks = [
        Check(
            f"below full batch after {n} passes (median of {SEEDS} orders)",
            statistics.median(below(side[n]) for side in ours),
            limit,
        )
        for n, limit in limits.items()
    ]
    by_hand = ", ".join(f"{below(hand[n]):.2%} after {n}" for n in PASSES)
    last = ", ".join(f"{below(side[max(PASSES)]):.3%}" for side in ours)
    return Row(
        NAME,
        f"minibatches of {batch}, {sizes}",
        checks[-1],
        checks[:-1],
        {"BLR": ours[0]["seconds"], "by hand": hand["seconds"]},
        f"full batch {best:.5f} nats a word in {sweeps} sweeps; below it at the end {last}; "
        f"by hand {by_hand}",
    )


def passes_of_blr(words: Tensor, sizes: Sizes, batch: int, seed: int) -> dict[Any, Any]:
    """Bounds of a word by passes; theta is its own optimum in every step."""
    torch.manual_seed(seed)
    guide = AutoNatural(document_model)
    guide.set_natural({"phi": natural_of(start(sizes, TILT)["phi"])})
    engine = BLR(document_model, guide)
    reached: dict[Any, Any] = {"seconds": []}
    judge = Hoffman(words, sizes)
    for done in range(1, max(PASSES) + 1):
        for _ in range(sizes.documents // batch):
            reached["seconds"].append(seconds(lambda: engine.step(words, sizes, batch))[0])
        if done in PASSES:
            judge.phi = guide.marginal("phi").concentration.detach()
            reached[done] = judge.bound_per_word()
    return reached


def passes_by_hand(words: Tensor, sizes: Sizes, batch: int) -> dict[Any, Any]:
    """The same by Hoffman's algorithm, whose rates are given."""
    make = torch.Generator().manual_seed(0)
    side, step = Hoffman(words, sizes, TILT), 0
    reached: dict[Any, Any] = {"seconds": []}
    for done in range(1, max(PASSES) + 1):
        for index in torch.randperm(sizes.documents, generator=make).split(batch):
            step += 1
            rate = (1 + step) ** -FORGETTING
            reached["seconds"].append(seconds(lambda i=index, r=rate: side.step(i, r))[0])
        if done in PASSES:
            reached[done] = side.bound_per_word()
    return reached


def memory_row(settings: Settings) -> Row:
    """A pass over a million tokens in a process of its own."""
    code = f"from benchmarks.lda import a_pass; a_pass({settings.tiny}, {settings.threads})"
    command = [sys.executable, "-c", code]
    output = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    result = json.loads(output.splitlines()[-1])
    return Row(
        NAME,
        f"a pass over {result['tokens']} tokens",
        Check("GiB at the peak", result["peak"], MEMORY),
        [Check("nats a word gained", result["gained"], 0.0, "at least")],
        {"step": result["seconds"]},
        f"{sum(result['seconds']):.1f} s, {result['before']:.2f} GiB before the first step",
    )


def a_pass(tiny: bool, threads: int) -> None:
    """Print what a pass takes."""
    torch.set_num_threads(threads)
    torch.set_default_dtype(torch.float64)
    sizes, batch = (TINY, 4) if tiny else (MILLION, MILLION_BATCH)
    words = draw(sizes)
    guide = AutoNatural(document_model)
    guide.set_natural({"phi": natural_of(start(sizes)["phi"])})
    engine = BLR(document_model, guide)
    judge, few = Hoffman(words[:batch], sizes._replace(documents=batch)), []
    before = peak_memory()
    times = []
    few.append(judge.bound_per_word())
    for _ in range(sizes.documents // batch):
        times.append(seconds(lambda: engine.step(words, sizes, batch))[0])
    peak = peak_memory()
    judge.phi = guide.marginal("phi").concentration.detach()
    few.append(judge.bound_per_word())
    result = {"tokens": words.numel(), "seconds": times, "before": before, "peak": peak}
    print(json.dumps(result | {"gained": few[1] - few[0]}))


def peak_memory() -> float:
    """GiB that this process had at most, in KiB in Linux.

    ``getrusage`` would count what the process was before it became this program: a copy of the
    benchmarks' own, with all that BayesPy took.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**20
