# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""``trace_report`` says where time went, and leaves the run that it looks at as it is."""

import copy
import math
import time
import warnings
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoIAFNormal
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.errors import ArgumentError, SampledFactorError
from pyro_blr.guides import AutoNatural
from pyro_blr.stopwatch import Stopwatch
from tests.drawn_models import MODELS, X, Y
from tests.state.runs import RUNS, Run, assert_same, everything
from tests.test_html_tables import Page

every_run = pytest.mark.parametrize("run", RUNS, ids=lambda run: run.name)
both_stores = pytest.mark.parametrize("local", [False, True], ids=["global store", "module-local"])


def report_of(blr: BLR, *args: Any, max_steps: int = 3) -> Any:
    return blr.trace_report(*args, max_steps=max_steps)


# ----------------------------------------------------------------------------- nothing is touched


@both_stores
@every_run
def test_a_run_that_is_looked_at_goes_on_as_if_it_were_not(run: Run, local: bool) -> None:
    with pyro.settings.context(module_local_params=local):
        pyro.set_rng_seed(3)
        blr = run.start()
        expected = run.go_on(blr, range(3))
        reached = everything(blr)

        pyro.set_rng_seed(3)
        blr = run.start()
        losses = []
        for i in range(3):
            before = everything(blr) if i else {}  # a new guide has nothing to be read
            random, stored = torch.get_rng_state(), dict(pyro.get_param_store().named_parameters())
            report_of(blr, *run.args(i), max_steps=2)
            now = dict(pyro.get_param_store().named_parameters())
            assert now.keys() == stored.keys()
            assert all(now[name] is leaf for name, leaf in stored.items())
            assert torch.equal(torch.get_rng_state(), random)
            assert_same(everything(blr) if i else {}, before)
            losses += run.go_on(blr, range(i, i + 1))
        assert losses == expected
        assert_same(everything(blr), reached)


def test_a_guide_that_has_seen_nothing_still_has_not() -> None:
    guide = AutoNatural(MODELS["regression"])
    blr = BLR(MODELS["regression"], guide)
    report_of(blr, X, Y)
    assert not guide.is_set_up
    assert blr.num_steps == 0
    assert list(pyro.get_param_store()) == []


@pytest.mark.parametrize("local", [False, True])
def test_a_module_that_a_model_closes_over_is_put_back(local: bool) -> None:
    class Net(pyro.nn.PyroModule):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.tensor(0.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.weight * x[:, 0]

    with pyro.settings.context(module_local_params=local):
        net = Net()

        def model(x: Tensor, y: Tensor) -> None:
            tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
            mean = net(x)
            with pyro.plate("data", len(y)):
                pyro.sample("y", dist.Normal(mean, tau.rsqrt()), obs=y)

        blr = BLR(model, AutoNatural(model))
        report_of(blr, X, Y)
        assert net.weight.item() == 0.5
        blr.step(X, Y)
        moved = net.weight.item()
        assert moved != 0.5
        report_of(blr, X, Y)
        assert net.weight.item() == moved


def test_what_was_put_back_after_an_error_is_whole() -> None:
    calls = []

    def model(y: Tensor) -> None:
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("no more runs")
        m = pyro.sample("m", dist.Normal(pyro.param("p", torch.tensor(0.0)), 1.0))
        pyro.sample("y", dist.Normal(m, 1.0), obs=y)

    blr = BLR(model, AutoNatural(model))
    blr.step(Y[0])
    before, random = everything(blr), torch.get_rng_state()
    calls[:] = [1]
    with pytest.raises(RuntimeError, match="no more runs"):
        report_of(blr, Y[0], max_steps=20)
    assert_same(everything(blr), before)
    assert torch.equal(torch.get_rng_state(), random)


def test_the_methods_of_the_engine_are_not_wrapped() -> None:
    blr = BLR(MODELS["regression"], AutoNatural(MODELS["regression"]))
    blr.step(X, Y)
    before = set(vars(blr)), set(vars(blr._builder)), set(vars(blr.view))
    report_of(blr, X, Y)
    assert (set(vars(blr)), set(vars(blr._builder)), set(vars(blr.view))) == before


# ------------------------------------------------------------------------------------- the numbers


@pytest.mark.parametrize("name", MODELS)
def test_the_parts_are_the_whole(name: str) -> None:
    blr = BLR(MODELS[name], AutoNatural(MODELS[name]), on_sampled="ignore")
    report = report_of(blr, X, Y)
    assert math.isclose(sum(p.seconds for p in report.parts), report.total, rel_tol=1e-9)
    assert all(p.first >= 0 and p.later >= 0 for p in report.parts)
    assert report.steps in (2, 3)
    names = [p.name.split(":")[0] for p in report.parts]
    assert names[:2] == ["trace", "compile"]
    assert len(set(names)) == len(names)


def test_the_total_is_that_of_a_clock_on_the_wall() -> None:
    blr = BLR(MODELS["regression"], AutoNatural(MODELS["regression"]))
    start = time.perf_counter()
    report = report_of(blr, X, Y)
    assert 0 < report.total < time.perf_counter() - start


@pytest.mark.parametrize("guide", [AutoDelta, AutoIAFNormal])
def test_a_guide_without_lifted_latents_has_its_own_parts(guide: Any) -> None:
    blr = BLR(MODELS["hierarchical"], guide(MODELS["hierarchical"]), on_sampled="ignore")
    report = report_of(blr, X, Y)
    assert math.isclose(sum(p.seconds for p in report.parts), report.total, rel_tol=1e-9)
    assert [p.name for p in report.parts][:2] == ["run the model", "run the guide"]
    assert {f.site for f in report.factors} == {"mu", "sigma", "a", "b", "y"}
    assert all(f.messages is None for f in report.factors)


def large(x: Tensor, y: Tensor) -> None:
    """One factor of many data among small ones."""
    w = pyro.sample("w", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    pyro.sample("few", dist.Bernoulli(logits=w[0]), obs=torch.tensor(1.0))
    with pyro.plate("data", 20_000):
        x = x.repeat(20_000 // len(x) + 1, 1)[:20_000]
        pyro.sample("many", dist.Bernoulli(logits=x @ w), obs=torch.ones(20_000))


@pytest.mark.parametrize("guide", [AutoNatural, AutoDelta])
def test_the_factor_that_costs_most_is_named(guide: Any) -> None:
    report = report_of(BLR(large, guide(large)), X, Y)
    assert report.costliest == "many"
    assert {f.site for f in report.factors} == {"w", "few", "many"}
    costs = [f.seconds for f in report.factors]
    assert costs == sorted(costs, reverse=True)


def test_a_slow_model_is_slow_in_its_trace() -> None:
    def slow(x: Tensor, y: Tensor) -> None:
        time.sleep(0.05)
        MODELS["regression"](x, y)

    report = report_of(BLR(slow, AutoNatural(slow)), X, Y)
    trace = report.parts[0]
    assert trace.name.startswith("trace")
    assert trace.seconds == max(p.seconds for p in report.parts)
    assert trace.first >= 0.05
    assert trace.later >= 0.05 * (report.steps - 1)


def test_every_factor_and_tier_of_the_explanation_is_timed() -> None:
    for name in ("regression", "mixture", "sampled", "hidden_markov"):
        pyro.clear_param_store()
        blr = BLR(MODELS[name], AutoNatural(MODELS[name]), on_sampled="ignore")
        report = report_of(blr, X, Y)
        tiers = {f.site: f.tier for f in blr.explain(X, Y).factors}
        for factor in report.factors:
            assert factor.elbo > 0
            assert factor.messages is not None
            assert factor.messages >= 0
            assert tiers.get(factor.site, factor.tier) == factor.tier


def test_a_guide_in_coordinates_of_its_own_is_timed() -> None:
    def model(y: Tensor) -> None:
        m = pyro.sample("m", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=m), obs=(y > 0).to(y.dtype))

    def guide(y: Tensor) -> None:
        log_scale = pyro.param("log_scale", torch.tensor(0.0))
        pyro.sample("m", dist.Normal(pyro.param("loc", torch.tensor(0.0)), log_scale.exp()))

    blr = BLR(model, guide)
    blr.step(Y)
    before = everything(blr)
    report = report_of(blr, Y)
    assert {f.site for f in report.factors} == {"m", "y"}
    assert_same(everything(blr), before)


def test_discrete_latents_under_a_point_mass_are_timed() -> None:
    model = MODELS["mixture"]
    guide = AutoDelta(pyro.poutine.block(model, hide=["z"]))
    blr = BLR(model, guide, loss=TraceEnum_ELBO(max_plate_nesting=1))
    assert report_of(blr, X, Y).steps >= 1


# --------------------------------------------------------------------------------------- the words


@pytest.mark.parametrize("guide", [AutoNatural, AutoDelta])
def test_a_report_is_a_table_in_text_and_in_html(guide: Any) -> None:
    model = MODELS["regression"]
    report = report_of(BLR(model, guide(model)), X, Y)
    text = str(report)
    assert text.startswith(f"{report.steps} step")
    page = Page(report._repr_html_())
    for part in report.parts:
        assert part.name in text
        assert part.name in page.cells
    for factor in report.factors:
        assert any(line.split()[:2] == [factor.site, factor.tier] for line in text.splitlines())
        assert factor.site in page.cells
    assert report[report.parts[0].name] is report.parts[0]


def test_a_sampled_factor_warns_when_steps_do_and_not_when_they_are_timed() -> None:
    blr = BLR(MODELS["sampled"], AutoNatural(MODELS["sampled"]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report_of(blr, X, Y, max_steps=2)
    strict = BLR(MODELS["sampled"], AutoNatural(MODELS["sampled"]), on_sampled="error")
    with pytest.raises(SampledFactorError):
        report_of(strict, X, Y)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "many"])
def test_a_number_of_steps_that_is_none_is_refused(steps: Any) -> None:
    blr = BLR(MODELS["regression"], AutoNatural(MODELS["regression"]))
    with pytest.raises(ArgumentError, match="max_steps"):
        blr.trace_report(X, Y, max_steps=steps)


def test_a_keyword_that_is_not_the_model_s_is_refused() -> None:
    blr = BLR(MODELS["regression"], AutoNatural(MODELS["regression"]))
    with pytest.raises(ArgumentError, match=r"trace_report passes 'tol'.*keywords are max_steps"):
        blr.trace_report(X, Y, tol=1e-3)


def test_a_single_step_has_no_later_ones() -> None:
    blr = BLR(MODELS["regression"], AutoNatural(MODELS["regression"]))
    report = report_of(blr, X, Y, max_steps=1)
    assert report.steps == 1
    assert all(p.later == 0 for p in report.parts)
    assert math.isclose(sum(p.first for p in report.parts), report.total, rel_tol=1e-9)


# ----------------------------------------------------------------------------------- the stopwatch


def test_a_part_within_a_part_belongs_to_the_outer_one() -> None:
    clock = Stopwatch("rest")
    inner = clock.timed("inner", lambda: time.sleep(0.01))
    outer = clock.timed("outer", lambda: inner())
    outer()  # before the start nothing is counted
    clock.start()
    outer()
    clock.lap()
    inner()
    clock.stop()
    inner()  # and after the end neither
    assert set(clock.laps[0]) == {"outer", "rest"}
    assert set(clock.laps[1]) == {"inner", "rest"}
    total = sum(seconds for lap in clock.laps for seconds in lap.values())
    assert math.isclose(total, clock.total, rel_tol=1e-9)
    assert clock.laps[0]["outer"] >= 0.01


def test_a_part_that_raises_ends() -> None:
    clock = Stopwatch("rest")

    def fail() -> None:
        raise ValueError

    clock.start()
    with pytest.raises(ValueError):
        clock.timed("failing", fail)()
    clock.timed("next", time.sleep)(0.0)
    clock.stop()
    assert set(clock.laps[0]) == {"rest", "failing", "next"}


def test_reports_can_be_copied() -> None:
    blr = BLR(MODELS["regression"], AutoNatural(MODELS["regression"]))
    report = report_of(blr, X, Y, max_steps=1)
    assert copy.deepcopy(report) == report
