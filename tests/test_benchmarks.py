# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The runner of the benchmarks runs, and what the benchmarks measure by is right."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch

from benchmarks import (
    bilinear,
    cone,
    factorisation,
    gpu,
    mean_field,
    optimisers,
    optimisers_gpu,
    out_of_core,
    ppca,
    stan,
    uci,
)
from benchmarks.a1a import largest_fall, load
from benchmarks.classification import Bound
from benchmarks.family import Family, State
from benchmarks.optimum import optimum
from benchmarks.regression import Statistics, data
from benchmarks.rows import Check, Row, Settings, Skipped
from benchmarks.stan_models import EXAMPLES
from benchmarks.unconstrained import LogJoint
from pyro_blr import BLR
from tests.oracles.coordinate_ascent import regression

ROOT = Path(__file__).resolve().parent.parent


def test_the_runner_prints_a_table_and_writes_json(tmp_path: Path) -> None:
    names = ["logistic", "regression_bayespy", "a1a"]
    command = [sys.executable, "-m", "benchmarks", *names, "--tiny", "--out", str(tmp_path)]
    environment = {k: v for k, v in os.environ.items() if k != "PYRO_BLR_DATA"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert "steps to gap 1e-08" in result.stdout, result.stderr
    assert "a1a: skipped: needs a1a.npz; set PYRO_BLR_DATA" in result.stdout
    content = json.loads((tmp_path / "logistic.json").read_text())
    assert content["machine"]["threads"]["torch"] == 1
    assert content["rows"][0]["verdict"] == "pass"
    content = json.loads((tmp_path / "regression_bayespy.json").read_text())
    quality = {check["name"]: check for check in content["rows"][0]["quality"]}
    assert quality["relative"]["holds"]
    assert not (tmp_path / "a1a.json").exists()


@pytest.mark.parametrize("module", [ppca, factorisation])
def test_both_sides_of_a_bilinear_model_go_the_same_way(module: ModuleType) -> None:
    rows = list(module.run(Settings(tiny=True)))
    assert rows
    assert [row.verdict for row in rows] == ["pass"] * len(rows)
    assert all(set(row.seconds) == {"BayesPy", "BLR"} for row in rows)


def test_noisy_steps_stay_in_the_cone_where_plain_ones_leave_it() -> None:
    rows = list(cone.run(Settings(tiny=True)))
    assert [row.verdict for row in rows] == ["pass"] * 4
    one_draw = {check.name: check.value for check in rows[0].quality}
    assert one_draw["% messages outside the cone"] > 0
    assert one_draw["% plain runs that leave it"] > 0


def test_rows_that_are_never_together_give_the_exact_posterior() -> None:
    found = out_of_core.measured(4, 500)
    assert max(found["mean"], found["precision"], found["tau"]) < out_of_core.ACCURACY
    assert found["steps"] == 1
    assert not found["not_converged"]


def test_optimisers_are_timed_and_scored_in_turn() -> None:
    step, *training, scored, convolutional = optimisers.run(Settings(tiny=True))
    assert set(step.seconds) == {"AdamW", "IVON"}
    assert [set(row.seconds) for row in training] == [{"AdamW", "IVON", "VOGN"}] * 2
    assert [check.name for check in step.quality] == ["buffers over AdamW"]
    for row in (scored, convolutional):
        names = [check.name for check in row.quality[:4]]
        assert names[::2] == ["nll, difference", "ece, difference"]
        assert names[1::2] == ["nll, its standard error", "ece, its standard error"]


def test_the_rows_for_a_gpu_run_on_a_small_scale() -> None:
    step, large, training, language = optimisers_gpu.run(Settings(tiny=True))
    assert set(step.seconds) == set(training.seconds) == {"AdamW", "IVON"}
    assert large.verdict == "pass"
    named = {check.name: check.value for check in language.quality}
    assert named["IVON at end"] - named["AdamW at end"] == pytest.approx(language.headline.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_rows_for_a_gpu_are_skipped_without_one() -> None:
    with pytest.raises(Skipped, match="no GPU"):
        next(iter(optimisers_gpu.run(Settings())))


def test_mean_fields_are_found_by_both_sides() -> None:
    near, nearer = mean_field.run(Settings(tiny=True))
    assert [check.name for check in near.quality] == [check.name for check in nearer.quality]
    problem = mean_field.made_up(100)
    best = problem.best()
    for side in (mean_field.vogn, mean_field.adam):
        found = side(problem, 0.1, 100, 0)
        assert best - 10 < found <= best + 1e-9


def test_regressions_are_scored_by_split() -> None:
    (row,) = uci.run(Settings(tiny=True))
    scores = {check.name: check.value for check in row.quality}
    theirs = [value for name, value in scores.items() if name.startswith("of Adam at")]
    assert len(theirs) == len(uci.RATES)
    assert row.headline.value == pytest.approx(scores["of IVON"] - max(theirs))


def test_splits_side_by_side_know_nothing_of_each_other() -> None:
    data = uci.made_up()
    other = replace(data, y=torch.cat([data.y[:1], data.y[1:] + 5]))
    found = []
    for own in (data, other):
        torch.manual_seed(0)
        found.append(uci.log_likelihood(own, uci.ivon(own, 5), 3))
    assert found[0][0] == found[1][0]
    assert found[0][1] != found[1][1]


def test_a_gpu_is_held_against_the_cpu_and_its_memory() -> None:
    copied, *models = gpu.run(Settings(tiny=True))
    assert copied.headline.value > 0
    assert [row.name.split(",")[0] for row in models] == ["regression", "mixture"]
    for row in models:
        assert set(row.seconds) == {"first", "later", "cpu first", "cpu later"}
        assert math.isfinite(row.headline.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_measured() -> None:
    with pytest.raises(Skipped, match="needs a GPU"):
        list(gpu.run(Settings()))


def test_a_start_is_the_same_on_both_sides() -> None:
    problem = bilinear.ppca(20, 4, 2)
    engine, nodes = problem.bayespy()
    loss = BLR(problem.model, problem.guide(), blocks="site").evaluate_loss(*problem.args)
    assert loss == pytest.approx(-float(engine.compute_lowerbound()), rel=1e-12)
    for site, natural in problem.naturals_of(nodes).items():
        for theirs, ours in zip(natural, problem.start()[site], strict=True):
            assert theirs.numpy() == pytest.approx(ours.numpy(), abs=1e-10)


def test_the_row_of_a_stan_model_has_time_and_quality() -> None:
    example = next(e for e in EXAMPLES if e.name == "blr")
    row = stan.row_of(example, None)
    assert row.headline.name == "s of a fit"
    assert row.verdict == "pass"
    assert row.note.startswith("3 exact, 0 quadrature, 0 sampled")


def test_the_quality_of_a_posterior_is_measured_in_reference_sds() -> None:
    example = next(e for e in EXAMPLES if e.name == "blr")
    draws = {"beta": torch.randn(1000, 2), "sigma": torch.randn(1000).exp()}
    guide = SimpleNamespace(sample_posterior=lambda count: draws)
    reference = {"beta[1]": draws["beta"][:, 0] + 3.0, "beta[2]": 2 * draws["beta"][:, 1]}
    error, least, largest = stan.quality(example, guide, reference)
    assert error.value == pytest.approx(3.0 / float(draws["beta"][:, 0].std()))
    assert (least.value, largest.value) == (pytest.approx(0.5), pytest.approx(1.0))


def test_a_name_that_does_not_exist_is_refused() -> None:
    command = [sys.executable, "-m", "benchmarks", "no_such"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2
    assert "no benchmark is called no_such; there are regression_large" in result.stderr


@pytest.mark.parametrize(
    ("headline", "quality", "verdict"),
    [
        (Check("x", 2.0, 3.0), [], "pass"),
        (Check("x", 4.0, 3.0), [], "MISS"),
        (Check("x", 4.0, 3.0, "at least"), [], "pass"),
        (Check("x", math.nan, 3.0), [], "MISS"),
        (Check("x", math.nan, 3.0, "at least"), [], "MISS"),
        (Check("x", 2.0, 3.0), [Check("error", 1.0, 0.1)], "MISS"),
        (Check("x", 2.0), [Check("error", 1.0)], "-"),
    ],
)
def test_a_fast_wrong_answer_is_a_miss(headline: Check, quality: list[Check], verdict: str) -> None:
    assert Row("b", "n", headline, quality).verdict == verdict


def test_falls_are_measured_in_roundings() -> None:
    assert largest_fall([3.0, 2.0, 1.0]) == 0
    assert largest_fall([1.0, 1.0 + 128 * torch.finfo(torch.float64).eps]) == pytest.approx(2)


def test_without_the_data_a1a_says_what_it_needs() -> None:
    with pytest.raises(Skipped, match="PYRO_BLR_DATA"):
        load(Settings())


def test_the_regression_by_hand_is_the_oracles() -> None:
    X, y = data(50, 3)
    by_hand = Statistics(X, y)
    q = by_hand.solve()
    expected = regression(X.numpy(), y.numpy())
    assert by_hand.elbo(q) == pytest.approx(expected.lower_bound, rel=1e-12)
    assert q.mean.numpy() == pytest.approx(expected.posterior["w"]["mean"], rel=1e-10)


def test_the_classification_bound_is_highest_at_its_maximum() -> None:
    X, y = data(40, 2)
    bound = Bound(X.numpy(), (y > 0).double().numpy(), torch.ones(2).numpy())
    mean, precision = torch.zeros(2).numpy(), torch.eye(2).numpy()
    for _ in range(50):
        mean, precision = bound.step(mean, precision)
    best = bound.elbo(mean, precision)
    assert best == pytest.approx(bound.maximum(), abs=1e-12)
    for shift in (0.1, -0.1):
        assert bound.elbo(mean + shift, precision) < best
        assert bound.elbo(mean, precision * (1 + shift)) < best


def gaussian_model(x: torch.Tensor) -> None:
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def gamma_model(x: torch.Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    pyro.sample("x", dist.Poisson(rate), obs=x)


def test_the_optimum_on_fixed_draws_is_the_evidence_of_a_gaussian() -> None:
    x = torch.tensor(1.7)
    best = optimum(Family(LogJoint(gaussian_model, (x,)), [["z"]]), 1e-6)
    evidence = dist.Normal(0.0, math.sqrt(2)).log_prob(x)
    assert best.elbo == pytest.approx(float(evidence), abs=1e-9)
    assert best.error < 1e-9
    # z | x ~ N(x / 2, 1 / 2): a mean that is 0.3 off costs KL = 0.3^2.
    off = State(x[None] / 2 + 0.3, torch.full((1, 1), math.sqrt(0.5)), torch.zeros(0, 2))
    assert best.gap(off) == pytest.approx(0.09, abs=1e-9)
    assert best.is_within(0.091, off)
    assert not best.is_within(0.089, off)


def test_the_optimum_on_fixed_draws_is_the_evidence_of_a_gamma() -> None:
    x = torch.tensor(4.0)
    best = optimum(Family(LogJoint(gamma_model, (x,)), [], ["rate"]), 1e-6)
    evidence = dist.GammaPoisson(2.0, 1.0).log_prob(x)
    # log p - log q is the same at every draw where q is the posterior: no error of first order.
    assert best.elbo == pytest.approx(float(evidence), abs=1e-5)
    assert best.error < 1e-5
    assert best.q.gammas.exp().flatten().tolist() == pytest.approx([6.0, 2.0], rel=1e-2)


def test_the_log_joint_is_that_of_the_unconstrained_space() -> None:
    x = torch.tensor(4.0)
    u = torch.tensor([[0.3], [-1.0]])
    rate = u[:, 0].exp()
    expected = dist.Gamma(2.0, 1.0).log_prob(rate) + dist.Poisson(rate).log_prob(x) + u[:, 0]
    assert LogJoint(gamma_model, (x,))(u) == pytest.approx(expected, abs=1e-12)
