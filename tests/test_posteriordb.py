# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The comparison on posteriordb's posteriors judges every side alike."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import torch
from numpyro.distributions import biject_to
from numpyro.infer.util import log_density
from pyro.ops.stats import fit_generalized_pareto

from benchmarks import posteriordb
from benchmarks.draws import FixedDraws
from benchmarks.family import Family, MeanOverDraws, State
from benchmarks.posteriordb.blr_fit import failure
from benchmarks.posteriordb.judge import Judge, errors_of, judge_of, khat
from benchmarks.posteriordb.numpyro_svi import NumPyroSVI
from benchmarks.posteriordb.table import Measured, row, totals
from benchmarks.posteriordb.tuning import Outcome, Plan, Setting, Trials, Tuning
from benchmarks.posteriordb.twins import in_jax, twin_of
from benchmarks.rows import Settings
from benchmarks.stan_models import EXAMPLES, Example
from benchmarks.store import Store
from benchmarks.unconstrained import LogJoint


def example(name: str) -> Example:
    return next(e for e in EXAMPLES if e.name == name)


def test_the_comparison_runs_on_synthetic_data() -> None:
    rows = list(posteriordb.run(Settings(tiny=True)))
    assert [r.name for r in rows] == ["blr", "median", "total"]
    quality = {check.name: check for check in rows[0].quality}
    assert quality["gap"].holds
    assert quality["failures"].holds
    assert set(rows[0].seconds) >= {"BLR", "Pyro SVI", "NumPyro SVI", "NumPyro SVI, compiling"}
    assert "NOT arrived" in rows[0].note  # twenty steps: censored, and said


@pytest.mark.parametrize("each", EXAMPLES, ids=[e.name for e in EXAMPLES])
def test_a_twin_has_the_log_joint_of_its_model(each: Example) -> None:
    twin = twin_of(each)
    assert twin is not None
    args = each.arguments(each.synthetic())
    joint = LogJoint(each.model, args)
    u = torch.randn(1, joint.dim, generator=torch.Generator().manual_seed(0)) / 2
    values = {name: jnp.asarray(value[0].numpy()) for name, value in joint.values(u).items()}

    @jax.jit  # as a whole: to compile each operation by itself takes longer
    def unconstrain(values: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        log_p, trace = log_density(twin, in_jax(args), {}, values)
        found = {}
        for name, value in values.items():
            transform = biject_to(trace[name]["fn"].support)
            found[name] = transform._inverse(value)
            log_p += transform.log_abs_det_jacobian(found[name], value).sum()
        return log_p, found

    log_p, found = unconstrain(values)
    for name, value in found.items():
        assert value.ravel() == pytest.approx(u[0, joint.slices[name]].numpy(), abs=1e-9)
    assert float(log_p) == pytest.approx(float(joint(u)), rel=1e-12)


def test_numpyros_gaussian_is_put_in_the_order_of_the_model() -> None:
    """A run that hardly moves ends where it starts, whatever order NumPyro packs its sites in."""
    each = example("rats_model")
    args = each.arguments(each.synthetic())
    joint = LogJoint(each.model, args)
    twin = twin_of(each)
    assert twin is not None
    u = torch.linspace(-1.0, 1.0, joint.dim)
    start = {name: value[0] for name, value in joint.values(u[None]).items()}
    side = NumPyroSVI(twin, args, joint, lambda seed: start)
    state = side.run(Setting(1, 1, 1e-9), seed=0).state
    assert state.loc == pytest.approx(u, abs=1e-6)
    assert state.scale == pytest.approx(0.1 * torch.eye(joint.dim), abs=1e-6)


def test_numpyros_covariance_is_reordered() -> None:
    each = example("seeds_model")
    joint = LogJoint(each.model, each.arguments(each.synthetic()))
    side = NumPyroSVI(lambda: None, (), joint)
    scale = torch.randn(joint.dim, joint.dim).tril()
    guide = SimpleNamespace(_init_locs=list(reversed(joint.slices)))
    state = side._state(guide, torch.arange(float(joint.dim)).numpy(), scale.numpy())
    order = state.loc.long()
    assert order.tolist() != sorted(order)
    assert state.scale.equal(state.scale.tril())
    covariance = (scale @ scale.T)[order][:, order]
    assert state.scale @ state.scale.T == pytest.approx(covariance, abs=1e-9)


@pytest.mark.parametrize("shape", [0.3, 0.8])
def test_khat_is_that_of_the_weights_and_not_of_their_inverses(shape: float) -> None:
    uniform = torch.rand(4000, generator=torch.Generator().manual_seed(0))
    weights = uniform**-shape  # a Pareto tail of this shape; the inverses have none
    tail = weights.sort().values[-190:]  # 3 sqrt(4000), as PSIS takes
    expected, _ = fit_generalized_pareto(tail[1:] - tail[0])
    assert khat(weights.log()) == pytest.approx(expected, abs=0.02)
    assert expected == pytest.approx(shape, abs=0.2)


def quadratic(u: torch.Tensor) -> torch.Tensor:
    return -(u**2).sum(-1) + u[:, 0]


def test_the_mean_over_draws_has_the_gradient_of_the_mean() -> None:
    u = torch.randn(300, 2, requires_grad=True)
    mean = MeanOverDraws.apply(u, quadratic)
    (by_chunks,) = torch.autograd.grad(3 * mean, u)
    (directly,) = torch.autograd.grad(3 * quadratic(u).mean(), u)
    assert float(mean) == pytest.approx(float(quadratic(u).mean()))
    assert by_chunks == pytest.approx(directly)
    with torch.no_grad():
        assert float(MeanOverDraws.apply(u, quadratic)) == pytest.approx(float(mean))


class Fake:
    """A side whose gap is a function of the setting and the seed; a step takes a second."""

    def __init__(self, gap: Any) -> None:
        self.gap, self.ran = gap, []

    def run(self, setting: Setting, seed: int) -> Outcome:
        self.ran.append((setting, seed))
        shift = torch.tensor([math.sqrt(2 * self.gap(setting, seed))])
        return Outcome(
            State(shift, torch.eye(1), torch.zeros(0, 2)), {"all": float(setting.gradients)}
        )


PLAN = Plan(
    rates=(0.1, 0.3), budgets=(10, 30, 90), survivors=(2, 1, 1), particles=(1, 10), cap=math.inf
)


def trials(gap: Any, store: Store | None = None, section: str = "trials") -> Trials:
    """Judged by a standard normal target: a mean of m is m^2 / 2 nats off."""
    family = Family(NormalJoint(), [["z"]])  # type: ignore[arg-type]
    judge = Judge(family, FixedDraws(512, 1, 0, seed=0), 0.5 * math.log(2 * math.pi), 0.0)
    return Trials(Fake(gap), section, judge, store or Store(None), lambda q: {})


class NormalJoint:
    slices = {"z": slice(0, 1)}  # noqa: RUF012
    dim = 1

    def __call__(self, u: torch.Tensor) -> torch.Tensor:
        return -(u[:, 0] ** 2) / 2


def test_the_cheapest_setting_that_is_verified_counts() -> None:
    runs = trials(lambda s, seed: 1.0 if s.steps < 30 or s.rate > 0.2 else 0.05)
    result = Tuning(runs, plan=PLAN).search()
    # At equal cost one particle comes first; 30 steps need the rate that halving keeps: ties keep
    # the first.
    assert result["setting"] == "lr 0.1, 30 steps, 1 particles"
    assert not result["censored"]
    assert result["gaps"] == pytest.approx([0.05] * 2, abs=1e-6)  # two of three decide
    assert result["seconds"]["all"] == 30


def test_halving_keeps_the_best_rates() -> None:
    runs = trials(lambda s, seed: 20 * s.rate)
    Tuning(runs, plan=PLAN).search()
    tuned = [s for s, seed in runs.side.ran if seed == 0]  # type: ignore[attr-defined]
    assert {s.rate for s in tuned if s.steps > 10} == {0.1}
    assert {s.rate for s in tuned if s.steps == 10 and s.particles == 1} == {0.1, 0.3}


def test_luck_with_the_tuning_seed_does_not_count() -> None:
    runs = trials(lambda s, seed: 0.05 if seed == 0 else 0.5)
    result = Tuning(runs, plan=PLAN).search()
    assert result["censored"]
    assert result["seconds"]["all"] == 900  # of the longest run


def test_a_setting_beyond_the_cap_does_not_count_and_is_told() -> None:
    runs = trials(lambda s, seed: 0.05 if s.gradients > 500 else 1.0)
    result = Tuning(runs, plan=replace(PLAN, cap=500.0)).search()
    assert result["censored"]
    assert result["seconds"]["all"] == 300
    assert result["beyond_the_cap"] == ["lr 0.1, 90 steps, 10 particles"]


def test_the_side_that_tunes_is_not_the_one_that_is_timed() -> None:
    store = Store(None)
    runs = trials(lambda s, seed: 0.05, store)
    scouts = trials(lambda s, seed: 0.05 if s.steps == 90 else 1.0, store, "tuning")
    result = Tuning(runs, scouts, PLAN).search()
    assert result["setting"] == "lr 0.1, 90 steps, 1 particles"
    assert [seed for _, seed in scouts.side.ran].count(0) == len(scouts.side.ran)  # type: ignore[attr-defined]
    assert 0 not in [seed for _, seed in runs.side.ran]  # type: ignore[attr-defined]


def test_what_was_measured_is_not_measured_again(tmp_path: Path) -> None:
    path = tmp_path / "kept.json"
    result = Tuning(trials(lambda s, seed: 1.0, Store(path)), plan=PLAN).search()
    again = trials(lambda s, seed: 0.0, Store(path))
    assert Tuning(again, plan=PLAN).search() == result
    assert again.side.ran == []  # type: ignore[attr-defined]
    assert "trials" in json.loads(path.read_text())


@pytest.mark.parametrize(
    ("gap", "converged", "expected"),
    [(0.01, True, ""), (0.5, False, ""), (0.5, True, "false converged"), (math.inf, False, "NaN")],
)
def test_what_counts_as_a_failure(gap: float, converged: bool, expected: str) -> None:
    assert failure(gap, converged) == expected


def test_errors_are_in_the_references_sds() -> None:
    moments = {"a": [1.0, 2.0], "b": [0.0, 0.5], "not in the reference": [9.0, 9.0]}
    errors = errors_of(moments, {"a": (0.0, 2.0), "b": (0.1, 1.0)})
    assert errors == {"mean": 0.5, "least sd": 0.5, "largest sd": 1.0}


def test_the_best_gaussian_of_a_multimodal_posterior_is_the_best_of_the_starts() -> None:
    each = example("low_dim_gauss_mix")
    store = Store(None)
    joint = LogJoint(each.model, each.arguments(each.synthetic()))
    judge = judge_of(each, joint, store)
    assert len(store.content["optimum"]["best"]["elbos_of_starts"]) == 5
    assert judge.elbo >= max(store.content["optimum"]["best"]["elbos_of_starts"]) - 0.1


def measured(name: str, pyro: float, censored: bool = False, **blr: Any) -> Measured:
    side = {
        **{"gap": 0.05, "censored": censored, "gradients": 2000, "setting": "s", "start": "o"},
        "beyond_the_cap": [],
        "seconds": {"all": pyro},
    }
    ours = {
        **{"gap": 0.01, "failures": [], "gradients": 50, "seconds": 1.0, "wall_seconds": 1.0},
        **{"steps": 5, "arrived": 20, "gaps": [0.01] * 20},
        **blr,
    }
    return Measured(name, {"error": 0.001}, ours, side, None, {}, "no reference")


@pytest.mark.parametrize(
    ("blr", "verdict"),
    [
        ({}, "pass"),
        ({"gap": None}, "MISS"),
        ({"gap": 0.2}, "MISS"),
        ({"failures": ["NaN"]}, "MISS"),
        ({"seconds": 20.0}, "MISS"),
    ],
)
def test_a_missed_target_is_a_miss(blr: dict[str, Any], verdict: str) -> None:
    assert row(measured("nes", 30.0, **blr)).verdict == verdict


def test_a_censored_ratio_is_a_bound_and_counts() -> None:
    kept = [measured("nes", 30.0), measured("blr", 50.0, censored=True), measured("arK", 10.0)]
    assert row(kept[1]).headline.name.endswith("at least")
    median, total = totals(kept)
    assert median.headline.value == 30.0
    assert median.note == "lower bounds for 1: blr"
    assert total.headline.value == 3
