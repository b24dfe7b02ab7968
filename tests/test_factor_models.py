# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Bilinear models against BayesPy's recorded answers: its bound, and the way to its optimum."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.bilinear import Problem, factorisation, ppca
from pyro_blr import BLR
from pyro_blr.steps.sweep import ROUNDING

RECORD = json.loads((Path(__file__).parent / "data" / "bayespy_factor_models.json").read_text())
# Their data and starts are replaced by the recorded ones; only the models are taken from here.
PROBLEMS = {
    "ppca": ppca(30, 6, 3),
    "factorisation": factorisation(60, 10, 8, 2),
    "biased": factorisation(60, 10, 8, 2, biases=True),
}

pytestmark = pytest.mark.parametrize("name", PROBLEMS)


def argument(recorded: Any) -> Any:
    """Data are lists; what is of another kind is no tensor."""
    is_size = isinstance(recorded, int) or len(recorded) == 3
    return recorded if is_size else torch.tensor(recorded)


def recorded(name: str) -> Problem:
    args = tuple(argument(a) for a in RECORD[name]["args"])
    means = {site: torch.tensor(mean) for site, mean in RECORD[name]["start"].items()}
    return dataclasses.replace(PROBLEMS[name], args=args, means=means)


def test_the_bound_at_bayespys_q_is_bayespys(name: str) -> None:
    problem = recorded(name)
    guide = problem.guide()
    blr = BLR(problem.model, guide, blocks="site", on_sampled="error")
    natural = RECORD[name]["natural"]
    guide.set_natural({s: tuple(torch.tensor(n) for n in pair) for s, pair in natural.items()})
    assert -blr.evaluate_loss(*problem.args) == pytest.approx(RECORD[name]["lower_bound"], rel=1e-8)
    assert all(f.conjugate for f in blr.explain(*problem.args).factors)


def test_bayespys_q_is_a_stationary_point(name: str) -> None:
    """At the optimum every message is what q has already."""
    problem = recorded(name)
    guide = problem.guide()
    natural = RECORD[name]["natural"]
    guide.set_natural({s: tuple(torch.tensor(n) for n in pair) for s, pair in natural.items()})
    messages = BLR(problem.model, guide, blocks="site").messages(*problem.args)
    for block, own in guide.naturals().items():
        for message, part in zip(messages[block.name], own, strict=True):
            torch.testing.assert_close(message, part.detach(), rtol=1e-5, atol=1e-5)


def test_a_fit_reaches_bayespys_bound_and_never_falls(name: str) -> None:
    problem = recorded(name)
    blr = BLR(problem.model, problem.guide(), blocks="site")
    fit = blr.fit(*problem.args)
    losses = [*fit.losses, blr.evaluate_loss(*problem.args)]
    assert fit.converged
    assert -losses[-1] == pytest.approx(RECORD[name]["lower_bound"], rel=1e-6)
    assert all(new <= old + ROUNDING * abs(old) for old, new in pairwise(losses))


def test_features_are_left_in_the_record(name: str) -> None:
    """A bound at a q without features would compare less than the model."""
    site = "W" if name == "ppca" else "u"
    linear, square = (torch.tensor(n) for n in RECORD[name]["natural"][site])
    mean = torch.linalg.solve(-2 * square, linear.unsqueeze(-1)).squeeze(-1)
    assert (mean.square().mean(0) > 0.1).any()
