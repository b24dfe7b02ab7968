# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Noisy steps stay in the cone, find their size from the noise, and are averaged."""

import math
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmarks.noisy_targets import gaussian, stein_message, student
from pyro_blr import BLR
from pyro_blr.families import (
    DiagonalNormal,
    ExponentialFamily,
    Gamma,
    MultivariateNormal,
    Natural,
    Normal,
)
from pyro_blr.guides import AutoNaturalMultivariateNormal
from pyro_blr.steps.averaging import Average
from pyro_blr.steps.cone import TRUST, Safety, inside, noisy_step, plain, squared_norm, trusted
from pyro_blr.steps.noise import NoiseControl
from pyro_blr.steps.schedule import decreasing
from tests.checks import engine


@dataclass(frozen=True)
class Unit:
    name: str
    family: ExponentialFamily


# ------------------------------------------------------------------------------------ the cone

STARTS: dict[str, tuple[ExponentialFamily, Natural]] = {
    "Normal": (Normal(), (torch.zeros(3), torch.tensor([-0.5, -5e-9, -5e9]))),
    "DiagonalNormal": (DiagonalNormal(), (torch.zeros(2, 3), -torch.ones(2, 3))),
    "MultivariateNormal": (
        MultivariateNormal(),
        (torch.zeros(2, 3), torch.tensor([1e-8, 1.0, 1e8]).diag().expand(2, 3, 3).mul(-0.5)),
    ),
    "Gamma": (Gamma(), (torch.tensor([0.0, 3.0]), torch.tensor([-1.0, -1e-3]))),
}
every_start = pytest.mark.parametrize("name", STARTS)
exponents = st.integers(-300, 300)


def noise(natural: Natural, exponent: int, seed: int) -> Natural:
    """Numbers of any sign around a size, with matrices that are neither definite nor symmetric."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(n.shape, generator=generator) * 10.0**exponent for n in natural)


@every_start
@given(exponent=exponents, seed=st.integers(0, 10**6), rho=st.floats(1e-6, 1.0))
def test_no_finite_message_leaves_the_cone(name: str, exponent: int, seed: int, rho: float) -> None:
    family, natural = STARTS[name]
    new = noisy_step(family, natural, noise(natural, exponent, seed), rho, Safety())
    assert new is None or inside(family, new)
    assert new is None or all(torch.isfinite(n).all() for n in new)


@every_start
@given(exponent=st.integers(-10, 30), seed=st.integers(0, 10**6))
def test_a_message_of_any_likely_size_is_a_step(name: str, exponent: int, seed: int) -> None:
    family, natural = STARTS[name]
    new = noisy_step(family, natural, noise(natural, exponent, seed), 0.3, Safety())
    assert new is not None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@every_start
def test_a_message_that_is_not_finite_is_no_step(name: str, value: float) -> None:
    family, natural = STARTS[name]
    safety = Safety()
    message = tuple(torch.full_like(n, value) for n in natural)
    assert noisy_step(family, natural, message, 0.3, safety) is None
    assert safety.refused == 1


@given(seed=st.integers(0, 10**6), exponent=st.integers(-3, 12))
def test_within_the_trust_region_the_plain_step_is_inside(seed: int, exponent: int) -> None:
    """No eigenvalue of ``S^-1 dS`` is below ``-2 sqrt(TRUST)``."""
    family, natural = STARTS["MultivariateNormal"]
    message = family.symmetrize(noise(natural, exponent, seed))
    new = plain(natural, trusted(family, natural, message, 1.0, Safety()), 1.0)
    factor = torch.linalg.cholesky(-2 * natural[1])
    half = torch.linalg.solve_triangular(factor, -2 * new[1], upper=False)
    relative = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    least = float(torch.linalg.eigvalsh(0.5 * (relative + relative.mT)).min())
    assert least > 1 - 2 * math.sqrt(TRUST) - 1e-6


def test_each_element_is_bounded_for_itself() -> None:
    family, natural = Normal(), (torch.zeros(2), torch.full((2,), -0.5))
    message = (torch.tensor([0.1, 1e6]), torch.tensor([-0.5, 3.0]))
    safety = Safety()
    nearer = trusted(family, natural, message, 1.0, safety)
    assert nearer[0][0] == message[0][0]
    step = tuple(m[1:] - n[1:] for m, n in zip(nearer, natural, strict=True))
    length = 0.5 * float(squared_norm(family, tuple(n[1:] for n in natural), step))
    assert length == pytest.approx(TRUST, rel=1e-9)
    assert safety.shortened == 1


def test_noise_alone_does_not_wear_precisions_down() -> None:
    """One draw of 50 dimensions: plain steps of the same length leave the cone."""
    generator = torch.Generator().manual_seed(3)
    target = gaussian(50, generator)
    family, q, worn = MultivariateNormal(), target.start(), target.start()
    is_out = False
    for _ in range(400):
        message = stein_message(target, q, 1, generator, False)
        new = noisy_step(family, q, message, 0.1, Safety())
        assert new is not None
        q = new
        if not is_out:
            message = family.symmetrize(stein_message(target, worn, 1, generator, False))
            worn = plain(worn, trusted(family, worn, message, 0.1, Safety()), 0.1)
            precision = torch.linalg.eigvalsh(-2 * worn[1])
            is_out = float(precision[0]) < 1e-12 * float(precision[-1])
    assert is_out
    assert target.gap(q) < 300


# --------------------------------------------------------------------------- sizes from the noise

BLOCK: Any = Unit("z", Normal())


def sizes(spread: float, steps: int, slope: float = 0.0) -> tuple[list[float], float]:
    """Sizes towards a fixed Normal(1, 1) whose messages carry noise; the distance at the end.

    :param spread: of the noise in each natural parameter.
    :param slope: how far the message moves as q does: a full step overshoots by it.
    """
    generator = torch.Generator().manual_seed(0)
    count = 30
    target = torch.ones(count)
    natural: Natural = (torch.zeros(count), torch.full((count,), -0.5))
    control, found = NoiseControl(), []
    for _ in range(steps):
        drawn = spread * torch.randn(count, generator=generator)
        message = (target - slope * (natural[0] - target) + drawn, natural[1])
        rho = control.size({BLOCK: natural}, {BLOCK: message})
        natural = plain(natural, message, rho)
        found.append(rho)
    return found, float((natural[0] - target).square().mean().sqrt())


def test_without_noise_steps_are_full() -> None:
    found, away = sizes(0.0, 12)
    assert found[-1] == pytest.approx(1.0)
    assert away < 1e-9


def test_steps_that_overshoot_are_damped() -> None:
    """A full step goes two and a half times as far as it should: the best size is 0.4."""
    found, away = sizes(0.0, 400, slope=1.5)
    assert max(found[20:]) < 0.8
    assert away < 1e-6


def test_noise_makes_steps_decrease() -> None:
    found, away = sizes(1.0, 2000)
    assert found[-1] <= decreasing(1900)
    assert away < 0.1
    assert sum(found) > 5  # and they still go anywhere


@pytest.mark.parametrize(("size", "most"), [(5, 400), (10, 500)])
def test_one_draw_with_control_reaches_the_target(size: int, most: int) -> None:
    generator = torch.Generator().manual_seed(size)
    target = gaussian(size, generator)
    family, q, control = MultivariateNormal(), target.start(), NoiseControl()
    unit: Any = Unit("z", family)
    for _ in range(most):
        message = family.symmetrize(stein_message(target, q, 1, generator, True))
        rho = control.size({unit: q}, {unit: message})
        new = noisy_step(family, q, message, rho, Safety())
        assert new is not None
        q = new
    assert target.gap(q) < 0.1


def test_blocks_of_some_rows_say_nothing_of_noise() -> None:
    control = NoiseControl()
    natural: Natural = (torch.zeros(2), torch.full((2,), -0.5))
    for t in range(5):
        message = (torch.full((2,), (-1.0) ** t), natural[1])
        assert control.size({BLOCK: natural}, {BLOCK: message}, {BLOCK}) == decreasing(0)


def test_the_state_of_sizes_goes_on() -> None:
    first, second = NoiseControl(), NoiseControl()
    generator = torch.Generator().manual_seed(1)
    natural: Natural = (torch.zeros(4), torch.full((4,), -0.5))

    def message() -> Natural:
        return 1 + torch.randn(4, generator=generator), natural[1]

    for _ in range(5):
        first.size({BLOCK: natural}, {BLOCK: message()})
    second.load_state(first.state())
    for _ in range(5):
        own = message()
        assert first.size({BLOCK: natural}, {BLOCK: own}) == second.size(
            {BLOCK: natural}, {BLOCK: own}
        )


# ------------------------------------------------------------------------------------- averages


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 9, 100])
def test_the_average_is_of_the_last_half(steps: int) -> None:
    average = Average()
    natural: Natural = (torch.zeros(()), torch.tensor(-0.5))
    for t in range(1, steps + 1):
        natural = (torch.tensor(float(t)), torch.tensor(-0.5))
        average.add({BLOCK: natural})
    begin = 2 ** max(0, int(math.log2(steps)) - 1)
    assert steps // 4 <= begin <= steps // 2 or steps == 1
    expected = (begin + steps) / 2
    assert float(average.of({BLOCK: natural})[BLOCK][0]) == pytest.approx(expected)
    other = Average()
    other.load_state(average.state())
    assert float(other.of({BLOCK: natural})[BLOCK][0]) == pytest.approx(expected)


def test_other_shapes_begin_anew() -> None:
    average = Average()
    average.add({BLOCK: (torch.zeros(3), -torch.ones(3))})
    average.add({BLOCK: (torch.ones(2), -torch.ones(2))})
    assert average.steps == 1
    held: Natural = (torch.zeros(3), -torch.ones(3))
    assert average.of({BLOCK: held})[BLOCK] is held


N = 40
X = torch.randn(N, 3, generator=torch.Generator().manual_seed(7))
Y = X @ torch.tensor([1.0, -0.5, 0.3]) + 0.5 * torch.randn(
    N, generator=torch.Generator().manual_seed(8)
)


def regression(size: int) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", N, subsample_size=size) as index:
        pyro.sample("y", dist.Normal(X[index] @ w, 0.5), obs=Y[index])


def away(natural: Natural, expected: Natural) -> float:
    return float(MultivariateNormal().kl(natural, expected))


def exact() -> Natural:
    precision = torch.eye(3) + X.mT @ X / 0.25
    return X.mT @ Y / 0.25, -0.5 * precision


def test_average_writes_what_is_nearer_than_the_iterates() -> None:
    pyro.set_rng_seed(2)
    blr, guide = engine(regression, step_size=0.1)
    gaps = []
    for t in range(250):
        blr.step(5)
        if t >= 125:
            gaps.append(away(next(iter(guide.naturals().values())), exact()))
    blr.average()
    assert away(next(iter(guide.naturals().values())), exact()) < 0.2 * sum(gaps) / len(gaps)


def test_a_noisy_fit_stops_by_the_average_and_writes_it() -> None:
    pyro.set_rng_seed(3)
    blr, guide = engine(regression)
    fit = blr.fit(20, max_steps=2000, tol=0.05)
    assert fit.converged, fit
    assert "of the average of the steps is at most tol=0.05" in fit.reason
    assert away(next(iter(guide.naturals().values())), exact()) < 0.1


def test_a_noisy_fit_that_ends_early_writes_the_better_one() -> None:
    pyro.set_rng_seed(4)
    blr, guide = engine(regression, step_size=0.3)
    fit = blr.fit(5, max_steps=205, tol=1e-9)
    assert not fit.converged
    written = next(iter(guide.naturals().values()))
    average = next(iter(blr.averaged().values()))
    assert all(torch.equal(a, b) for a, b in zip(written, average, strict=True))


def test_steps_without_noise_have_no_average() -> None:
    blr, guide = engine(regression)
    blr.step(N)
    before = [n.clone() for n in next(iter(guide.naturals().values()))]
    blr.average()
    after = next(iter(guide.naturals().values()))
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


# ------------------------------------------------------------------------------------- float32


def narrow(X: Tensor, y: Tensor, size: int) -> None:
    """A float32 model whose posterior covariance has a condition number of 1e10."""
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("data", len(X), subsample_size=size) as index:
        pyro.sample("y", dist.Normal(X[index] @ w, 1.0), obs=y[index])


@pytest.mark.parametrize("size", [20, 19], ids=["all", "subsampled"])
def test_float32_models_keep_float64_choleskys(size: int) -> None:
    generator = torch.Generator().manual_seed(5)
    scale = torch.tensor([1e5, 1.0, 1e-3])
    X = (torch.randn(20, 3, generator=generator) * scale).float()
    X[:, 1] += 0.5 * X[:, 0]  # 1e10 and correlated
    y = torch.randn(20, generator=generator).float()
    pyro.set_rng_seed(0)
    guide = AutoNaturalMultivariateNormal(narrow)
    torch.set_default_dtype(torch.float32)
    try:
        blr = BLR(narrow, guide, step_size="auto")
        for _ in range(30):
            blr.step(X, y, size)
    finally:
        torch.set_default_dtype(torch.float64)
    (natural,) = guide.naturals().values()
    assert all(n.dtype == torch.float64 for n in natural)
    assert inside(MultivariateNormal(), tuple(n.detach() for n in natural))
    eigenvalues = torch.linalg.eigvalsh(-2 * natural[1].detach())
    assert float(eigenvalues[-1] / eigenvalues[0]) > 1e10
    if size == len(X):
        wide = X.double()
        expected = torch.linalg.inv(torch.eye(3) + wide.mT @ wide)
        found = torch.linalg.inv(-2 * natural[1].detach())
        assert torch.allclose(found, expected, rtol=1e-3)


def test_the_student_target_has_its_optimum_at_gap_0() -> None:
    target = student(3, torch.Generator().manual_seed(0))
    family, q = MultivariateNormal(), target.start()
    control, average = NoiseControl(), Average()
    generator = torch.Generator().manual_seed(1)
    unit: Any = Unit("z", family)
    for _ in range(600):
        message = family.symmetrize(stein_message(target, q, 10, generator, True))
        rho = control.size({unit: q}, {unit: message})
        q = noisy_step(family, q, message, rho, Safety()) or q
        average.add({unit: q})
    assert 0 <= target.gap(average.of({unit: q})[unit]) < 0.02
