# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The ten problems: one density in every library, one judge, and tables that say what was seen."""

import json
import math
import re
import sys
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from benchmarks import problems
from benchmarks.machine import ROOT
from benchmarks.peers import blr
from benchmarks.peers.process import Process
from benchmarks.peers.registry import PEERS
from benchmarks.peers.stepping import Clock, looks
from benchmarks.problems import page, processes, table
from benchmarks.problems.catalogue import PROBLEMS, load
from benchmarks.problems.judge import Judge
from benchmarks.problems.measure import Measuring, in_numpy
from benchmarks.problems.problem import Problem
from benchmarks.rows import Settings
from benchmarks.store import Store, in_lines
from benchmarks.unconstrained import LogJoint


def normal_model(x: torch.Tensor) -> None:
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(b + a, 1.0).to_event(1), obs=x)


def normal_problem() -> Problem:
    return Problem("normal", "", normal_model, (torch.tensor([0.3, -1.2]),), ("blr",), draws=64)


def posterior() -> tuple[torch.Tensor, torch.Tensor, float]:
    """Of (b, a), with the evidence."""
    x = torch.tensor([0.3, -1.2])
    design = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    covariance = torch.linalg.inv(torch.eye(3) + design.T @ design)
    evidence = dist.MultivariateNormal(torch.zeros(2), torch.eye(2) + design @ design.T)
    return covariance @ design.T @ x, covariance, float(evidence.log_prob(x))


def test_the_judge_has_the_density_that_the_peers_have() -> None:
    """Where the model is stated a second time, for his speed."""
    found = [load(name, None, True) for name in PROBLEMS]
    twice = [p for p in found if p.judged and p.summed]
    assert [p.name for p in twice] == ["mixture"]
    for problem in twice:
        fast, plain = (LogJoint(m, problem.args) for m in (problem.judged, problem.summed))
        u = torch.randn(5, plain.dim, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(fast(u), plain(u), rtol=1e-10)


@pytest.mark.parametrize("order", [("b", "a"), ("a", "b")])
def test_the_judge_finds_the_evidence_of_a_posterior_in_any_order(order: tuple[str, ...]) -> None:
    mean, covariance, evidence = posterior()
    places = {"b": [0, 1], "a": [2]}
    at = [i for name in order for i in places[name]]
    q = {
        "sites": [(name, len(places[name])) for name in order],
        "loc": mean[at].numpy(),
        "scale": torch.linalg.cholesky(covariance[at][:, at]).numpy(),
    }
    judge = Judge(normal_problem())
    assert judge.of(q).elbo == pytest.approx(evidence, abs=1e-10)
    shifted = {
        **q,
        "loc": q["loc"] + 0.1 * torch.linalg.cholesky(covariance[at][:, at]).numpy()[:, 0],
    }
    assert judge.of(shifted).elbo == pytest.approx(evidence - 0.005, abs=1e-10)
    found, sd = judge.moments(q)
    assert found.tolist() == pytest.approx(mean.tolist())
    assert sd.tolist() == pytest.approx(covariance.diagonal().sqrt().tolist())


def test_the_judge_weighs_draws_by_their_own_density() -> None:
    mean, covariance, evidence = posterior()
    law = dist.MultivariateNormal(mean, covariance)
    u = law.sample((10,))
    q = {"values": {"b": u[:, :2].numpy(), "a": u[:, 2].numpy()}, "log_q": law.log_prob(u).numpy()}
    judged = Judge(normal_problem()).of(q)
    assert judged.elbo == pytest.approx(evidence, abs=1e-10)
    assert judged.error < 1e-10


def test_what_is_no_number_is_no_elbo() -> None:
    q = {"sites": [("b", 2), ("a", 1)], "loc": np.full(3, np.nan), "scale": np.ones(3)}
    assert math.isnan(Judge(normal_problem()).of(q).elbo)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_is_one_density_in_pyro_and_numpyro(name: str) -> None:
    numpyro = pytest.importorskip("numpyro")
    import jax
    from numpyro.infer.util import potential_energy

    from benchmarks.peers.numpyro_twins import TWINS

    numpyro.enable_x64()
    problem = load(name, None, True)
    joint, whole = Judge(problem).joint, LogJoint(problem.marginal, problem.args)
    u = torch.randn(joint.dim, generator=torch.Generator().manual_seed(0))
    shapes = {n: shape for n, (shape, _) in joint._sites.items()}
    at = {n: u[s].reshape(shapes[n]).numpy() for n, s in joint.slices.items()}
    expected = float(joint(u[None]))
    assert float(whole._one(u)) == pytest.approx(expected, rel=1e-10)
    # Compiled as a whole: each operation by itself takes longer.
    energy = jax.jit(partial(potential_energy, TWINS[name], in_numpy(problem.args), {}))
    assert -float(energy(at)) == pytest.approx(expected, rel=1e-10)


def test_every_problem_is_measured_by_blr_and_by_peers_that_there_are() -> None:
    assert len(PROBLEMS) == 10
    for name in PROBLEMS:
        peers = load(name, None, True).peers
        assert peers[0] == "blr"
        assert set(peers) <= set(PEERS)


def test_inducing_points_leave_next_to_nothing_of_the_variance() -> None:
    A, *_ = load("banana", None, False).args
    left = processes.VARIANCE - A.square().sum(-1)
    assert float(left.max()) < 1e-3 * processes.VARIANCE


def test_a_small_run_has_a_row_for_every_peer() -> None:
    rows = list(problems.run(Settings(tiny=True)))
    names = [row.name for row in rows]
    assert "diabetes: BLR default" in names
    assert "diabetes: Pyro SVI mean-field" in names
    assert "diabetes: scikit-learn BayesianRidge" in names
    assert not any(row.headline.name == "failed" for row in rows)


def test_records_of_other_data_and_failures_are_forgotten() -> None:
    def measuring(*x: float) -> Measuring:
        return Measuring(replace(normal_problem(), args=(torch.tensor(x),)), store, Settings())

    store = Store(None)
    kept = measuring(0.3, -1.2)
    mark = {"log_joint": kept._mark()}
    records = {"blr/default": {}, "blr/full": {"error": "no"}}
    store.content = {
        "problem": {"described": mark},
        "reference": {"nuts": mark},
        "records": records,
    }
    kept._forget_what_is_stale()
    assert list(store.content["records"]) == ["blr/default"]
    assert store.content["reference"] == {"nuts": mark}
    measuring(0.3, -1.3)._forget_what_is_stale()
    assert store.content == {"reference": {}}


def test_what_is_kept_has_a_list_of_numbers_on_a_line() -> None:
    content = {"a": ["x [1], y", {"b": [1, 2.5]}, []], "c": "[\n 1,\n 2\n]", "d": [[1, None]]}
    written = in_lines(content)
    assert json.loads(written) == content
    assert "[1, 2.5]" in written


def test_what_goes_wrong_in_a_peer_is_its_answer() -> None:
    with Process(Path(sys.executable), 1) as process:
        found = process.call("sklearn_ridge", {"args": (np.ones((2, 1)),)}, [])
    assert "ValueError" in found["error"]


def test_a_clock_stands_while_nobody_is_inside() -> None:
    clock = Clock()
    with clock:
        sum(range(1000))
    seen = clock.seconds
    sum(range(1000))
    assert clock.seconds == seen > 0


def test_looks_are_every_step_at_first_and_end_at_the_horizon() -> None:
    assert list(looks(5)) == [1, 2, 3, 4, 5]
    many = list(looks(1000))
    assert many[-1] == 1000
    assert max(b / a for a, b in pairwise(many[5:])) < 1.5


def test_a_fit_is_looked_at_where_it_came_near() -> None:
    losses = [100.0, 30.0, 5.5, 5.05, 5.005, 5.0]
    assert {2, 3, 4, 6} <= set(blr.looks(losses, 6, long=False))
    assert blr.looks(losses, 6, long=True) == [3, 6]
    assert blr.looks([5.0], 1, long=False) == [1]


def record(peer: str, family: str, *looks: tuple[float, float], **more: Any) -> dict[str, Any]:
    """With looks of seconds and an ELBO."""
    rows = [[seconds, 10 * i, elbo, 0.0, None] for i, (seconds, elbo) in enumerate(looks)]
    run = {"setting": "as it is", "looks": rows, "converged": True, "steps": 3}
    common = {"compile": 0.0, "memory": 1.0, "versions": {peer: "1.0"}, "chosen": 0}
    return {"peer": peer, "family": family, **common, "runs": [run], **more}


def content() -> dict[str, Any]:
    records = {
        "blr/mean-field": record("blr", "mean-field", (0.1, -9.0), (0.2, -5.0)),
        "pyro_svi/mean-field": record("pyro_svi", "mean-field", (1.0, -9.0), (4.0, -5.05)),
        "numpyro_svi/mean-field": record("numpyro_svi", "mean-field", (0.1, -5.02), compile=2.0),
        "blackjax_vi/mean-field": record("blackjax_vi", "mean-field", (0.5, -6.0)),
        "bayespy_vmp/": {"peer": "bayespy_vmp", "family": "message passing", "error": "no"},
    }
    described = {
        "title": "Made up",
        "dim": 2,
        "machine": {
            "processor": "none",
            "cores": 1,
            "system": "none",
            "threads": {"torch": 1},
            "python": "3",
            "load_average": 0.1,
        },
    }
    return {"problem": {"described": described}, "records": records}


def test_times_are_to_the_same_elbo_first_and_later() -> None:
    rows = {row.name: row for row in table.rows("diabetes", content())}
    pyro_row = rows["diabetes: Pyro SVI mean-field"]
    assert pyro_row.headline.value == pytest.approx(20)
    assert pyro_row.verdict == "pass"
    # Quicker once it is compiled: the row does not pass, whatever the first fit took.
    jax_row = rows["diabetes: NumPyro SVI mean-field"]
    assert jax_row.headline.value == pytest.approx(2.1 / 0.2)
    assert jax_row.quality[0].value == pytest.approx(0.5)
    assert jax_row.verdict == "MISS"
    late = rows["diabetes: BlackJAX VI mean-field"]
    assert "had not arrived" in late.headline.name
    assert late.headline.value == pytest.approx(2.5)
    assert rows["diabetes: BayesPy message passing"].verdict == "-"


def test_a_peer_that_blr_does_not_reach_is_a_miss() -> None:
    made = content()
    made["records"]["pyro_svi/mean-field"]["runs"][0]["looks"][-1][2] = -4.0
    (row,) = [r for r in table.rows("diabetes", made) if ": Pyro SVI" in r.name]
    assert math.isnan(row.headline.value)
    assert row.verdict == "MISS"


def test_the_page_says_who_is_slower_and_why(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "diabetes.json").write_text(json.dumps(content()))
    written = [
        page.write(tmp_path / "kept", tmp_path / name, tmp_path / "pictures").read_text()
        for name in ("one.md", "two.md")
    ]
    assert written[0] == written[1]
    assert "| Pyro SVI | 0.05 | 4 | 4 | > 4 |" in written[0]
    assert "no: 10 x first, 0.5 x later" in written[0]
    assert "- NumPyro SVI mean-field: " in written[0]
    assert "Not measured: a1a" in written[0]
    assert (tmp_path / "pictures" / "diabetes.png").exists()


def test_the_page_of_the_documentation_is_that_of_what_is_kept() -> None:
    found = page.contents()
    assert page.PAGE.read_text() == page.text(found), "python -m benchmarks page writes it anew"
    assert all((page.PICTURES / f"{name}.png").exists() for name in found)


def test_the_readme_counts_what_the_page_says() -> None:
    lines = page.PAGE.read_text().splitlines()
    cells = [line.split(" | ") for line in lines if re.match(r"\| \[\w+\]\(#", line)]
    (first, total), (later, _) = (
        map(sum, zip(*(map(int, row[place].split(" of ")) for row in cells), strict=True))
        for place in (1, 2)
    )
    readme = " ".join((ROOT / "README.md").read_text().split())
    assert len(cells) == len(PROBLEMS)
    assert f"of {total} pairs of a peer and a family" in readme
    assert f"first in {first} on a process's first fit, and in {later} once" in readme
    solvers = sorted(float(x) for row in cells for x in re.findall(r": ([\d.e+]+) x", row[-1]))
    quicker = [x for x in solvers if x > 1]
    assert (len(solvers), len(solvers) - len(quicker)) == (6, 3), "the README has them in words"
    assert f"are {quicker[0]:g} to {quicker[-1]:g} times as quick" in readme


def test_an_environment_that_is_not_made_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.peers import environments

    monkeypatch.setenv("PYRO_BLR_PEERS", "/nowhere")
    assert environments.interpreter("jax") is None
    assert "python -m benchmarks environments" in environments.missing("jax")
    monkeypatch.setenv("PATH", "")
    assert "needs python3.12" in environments.missing("goal")
