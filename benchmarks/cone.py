# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Noisy steps with indefinite Hessians: how many leave the cone, and where they come to."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch

from pyro_blr.families import MultivariateNormal, Natural
from pyro_blr.steps.averaging import Average
from pyro_blr.steps.cone import Safety, inside, noisy_step, plain
from pyro_blr.steps.noise import NoiseControl

from .noisy_targets import FAMILY, Target, gaussian, stein_message, student
from .rows import Check, Row, Settings

NAME = "cone"
SIZES, DRAWS = (5, 20, 50), (1, 10)
STEP_SIZES = (0.01, 0.05, 0.1, 0.3, 0.5)
#: Targets and steps of each constant size.
CONSTANT = (1, 600)
#: Targets and the most steps of "auto", with control and without: a run ends where it has arrived.
AUTO, MOST, MOST_RAW = 2, 6000, 2000
#: The KL to the optimum that must be reached, in nats, and how often it is looked at.
NEAR, EVERY = 0.1, 20
KINDS: dict[str, Callable[[int, torch.Generator], Target]] = {
    "Gaussian": gaussian,
    "Student t": student,
}


@dataclass(frozen=True)
class Unit:
    """The one block of q."""

    name: str = "z"
    family: MultivariateNormal = FAMILY


BLOCK = Unit()


@dataclass
class Outcome:
    """What became of some runs.

    :param indefinite: steps whose message was outside the cone.
    :param last: the steps of each run, which under "auto" ends once the KL is below the mark.
    :param best: the KL at its end in nats, of the iterate or of the average, which is nearer.
    :param late: the mean KL of iterates over the last half of each run.
    """

    steps: int = 0
    outside: int = 0
    overflow: int = 0
    indefinite: int = 0
    last: list[float] = field(default_factory=list)
    best: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)


def run(settings: Settings) -> Iterator[Row]:
    """One row for each target, dimension and number of draws."""
    for kind in KINDS:
        for size in (2,) if settings.tiny else SIZES:
            for draws in DRAWS:
                yield row(kind, size, draws, settings.tiny)


def row(kind: str, size: int, draws: int, tiny: bool) -> Row:
    """All step sizes on the noise as it comes, and "auto" without and with control."""
    few, short = (1, 10) if tiny else CONSTANT
    many, long, longest = (1, 20, 20) if tiny else (AUTO, MOST_RAW, MOST)
    total, quality, failed = Outcome(), [], 0
    for step_size in STEP_SIZES:
        found = runs(kind, size, draws, few, short, step_size, False)
        quality.append(Check(f"KL at {step_size:g}", mean(found.late)))
        add(total, found)
        failed += sum(plain_fails(kind, size, draws, i, short, step_size) for i in range(few))
    raw = runs(kind, size, draws, 1, long, None, False)
    auto = runs(kind, size, draws, many, longest, None, True)
    add(total, raw)
    add(total, auto)
    quality += [
        Check("least KL, auto", max(raw.best)),
        Check("steps, auto", max(raw.last)),
        Check("least KL, auto with control", max(auto.best), None if tiny else NEAR),
        Check("steps, auto with control", max(auto.last), None if tiny else longest),
        Check("% overflow", 100 * total.overflow / total.steps, 0.0),
        Check("% messages outside the cone", 100 * total.indefinite / total.steps),
        Check("% plain runs that leave it", 100 * failed / (few * len(STEP_SIZES))),
    ]
    outside = Check("% outside the cone", 100 * total.outside / total.steps, 0.0)
    note = f"{total.steps} steps"
    return Row(NAME, f"{kind}, d = {size}, draws {draws}", outside, quality, note=note)


def seeded(kind: str, size: int, number: int) -> tuple[Target, torch.Generator]:
    """A target, and the generator of its noise."""
    generator = torch.Generator().manual_seed(1000 * size + number)
    return KINDS[kind](size, generator), generator


def runs(
    kind: str, size: int, draws: int, count: int, steps: int, step_size: float | None, control: bool
) -> Outcome:
    """Some runs of the package's own steps, each on a target of its own.

    :param step_size: None for "auto".
    :param control: see :func:`~benchmarks.noisy_targets.stein_message`.
    """
    found = Outcome()
    for number in range(count):
        target, generator = seeded(kind, size, number)
        q, average, noise = target.start(), Average(), NoiseControl()
        gaps = []
        for t in range(steps):
            message = stein_message(target, q, draws, generator, control)
            symmetric = FAMILY.symmetrize(message)
            found.indefinite += not inside(FAMILY, symmetric)
            rho = noise.size({BLOCK: q}, {BLOCK: symmetric}) if step_size is None else step_size
            new = noisy_step(FAMILY, q, message, rho, Safety())
            q = q if new is None else new
            found.steps += 1
            found.outside += not inside(FAMILY, q)
            found.overflow += not is_finite(q)
            average.add({BLOCK: q})
            if t % EVERY == EVERY - 1 or t == steps - 1:
                gaps.append(target.gap(q))
                best = min(gaps[-1], target.gap(average.of({BLOCK: q})[BLOCK]))
                if step_size is None and best < NEAR:
                    break
        found.last.append(t + 1)
        found.best.append(best)
        found.late.append(mean(gaps[len(gaps) // 2 :]))
    return found


def plain_fails(
    kind: str, size: int, draws: int, number: int, steps: int, step_size: float
) -> bool:
    """Whether the plain rule, on the same noise, leaves the cone or overflows."""
    target, generator = seeded(kind, size, number)
    q = target.start()
    for _ in range(steps):
        q = plain(q, stein_message(target, q, draws, generator, False), step_size)
        if not inside(FAMILY, q):
            return True
    return False


def is_finite(q: Natural) -> bool:
    """Whether no number is infinite or NaN."""
    return all(bool(torch.isfinite(n).all()) for n in q)


def mean(values: list[float]) -> float:
    """The mean of some numbers."""
    return sum(values) / len(values)


def add(total: Outcome, found: Outcome) -> None:
    """Count the steps of some more runs."""
    total.steps += found.steps
    total.outside += found.outside
    total.overflow += found.overflow
    total.indefinite += found.indefinite
