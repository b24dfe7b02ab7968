# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Mixtures, topics and chains go the way of variational Bayes EM written by hand."""

from typing import Any

import numpy as np
import pytest
import torch

from tests.checks import engine
from tests.discrete.hand_made import CASES, Case

every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def at_start(case: Case, **keywords: Any) -> Any:
    return engine(case.model, case.start, on_sampled="error", **keywords)


@every_case
def test_the_bound_is_that_of_the_oracle(case: Case) -> None:
    blr, _ = at_start(case)
    assert -blr.evaluate_loss(*case.args) == pytest.approx(case.bound(case.start), rel=1e-11)
    explained = blr.explain(*case.args)
    assert {f.tier for f in explained.factors} == {"exact"}
    assert all(f.conjugate for f in explained.factors)


@every_case
def test_the_messages_are_weighted_by_the_posterior_of_the_discrete_latents(case: Case) -> None:
    """The gradient theorem: a block's message is the sum of those of all values, by weight."""
    blr, _ = at_start(case)
    found = blr.messages(*case.args)
    expected = case.first(case.oracle(case.start).sweep(*case.data))
    for site, naturals in expected.items():
        for mine, theirs in zip(found[site], naturals, strict=True):
            assert torch.allclose(mine, torch.as_tensor(theirs).reshape(mine.shape), rtol=1e-9)


@every_case
def test_a_step_is_a_sweep(case: Case) -> None:
    blr, _ = at_start(case, step_size=1.0)
    oracle = case.oracle(case.start)
    for _ in range(4):
        assert -blr.step(*case.args) == pytest.approx(oracle.elbo(*case.data), rel=1e-10)
        oracle = oracle.sweep(*case.data)


def fitted(case: Case, **keywords: Any) -> tuple[Any, Any]:
    """A fit, whose loss never rose, and its engine."""
    blr, guide = at_start(case, **keywords)
    losses = [blr.step(*case.args) for _ in range(10)]
    fit = blr.fit(*case.args, max_steps=400)
    losses.append(fit.losses[-1])
    assert np.diff(losses).max() < 1e-9 * abs(losses[-1])
    assert fit.converged
    assert fit.gap < 1e-6
    return fit, guide


def settled(case: Case, start: Any) -> float:
    """The bound where the oracle's sweeps end."""
    oracle = case.oracle(start)
    for _ in range(3000):
        before = oracle.elbo(*case.data)
        oracle = oracle.sweep(*case.data)
        if oracle.elbo(*case.data) - before < 1e-12:
            break
    return float(oracle.elbo(*case.data))


@every_case
def test_fits_rise_to_the_optimum_of_the_oracle(case: Case) -> None:
    fit, _ = fitted(case, step_size=1.0)
    assert -fit.losses[-1] == pytest.approx(settled(case, case.start), abs=1e-6)


@every_case
def test_fits_with_nothing_set_end_in_an_optimum_of_the_oracle(case: Case) -> None:
    """Not always in the one of its sweeps: proportions of rows come to their optimum first."""
    fit, guide = fitted(case)
    found = {name: guide.marginal(name) for name in case.start}
    assert -fit.losses[-1] == pytest.approx(settled(case, found), abs=1e-6)
