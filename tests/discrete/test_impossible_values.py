# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Data that are impossible at some values of a discrete latent: these have no probability."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_blr.errors import SupportError
from tests.checks import engine

COUNTS = torch.tensor([[2.0, 3.0], [0.0, 1.0], [5.0, 4.0], [2.0, 2.0]])
START = {"chance": dist.Beta(2.0, 3.0), "seen": dist.Beta(4.0, 3.0)}
MOST = 7


def abundance(y: Tensor, known: Tensor | bool = True) -> None:
    """How many of an unknown number were seen, visit by visit. # shape: (sites, visits)"""
    chance = pyro.sample("chance", dist.Beta(1.0, 1.0))
    seen = pyro.sample("seen", dist.Beta(1.0, 1.0))
    with pyro.plate("sites", y.shape[0], dim=-2):
        there = pyro.sample("there", dist.Binomial(MOST, chance))
        with pyro.plate("visits", y.shape[1], dim=-1), poutine.mask(mask=known):
            pyro.sample("y", dist.Binomial(there, seen, validate_args=False), obs=y)


def expected_logs(name: str) -> tuple[Tensor, Tensor]:
    """E[log p] and E[log(1 - p)]."""
    a, b = START[name].concentration1, START[name].concentration0
    return a.digamma() - (a + b).digamma(), b.digamma() - (a + b).digamma()


def log_joint_by_hand(y: Tensor) -> Tensor:
    """E_q[log p(there) p(y | there)], of which -inf is a part. # shape: (sites, MOST + 1)"""
    (yes, no), (see, miss) = expected_logs("chance"), expected_logs("seen")
    there = torch.arange(MOST + 1.0)
    choose = (
        dist.Binomial(MOST, 0.5 * torch.ones(())).log_prob(there) - MOST * torch.tensor(0.5).log()
    )
    total = choose + there * yes + (MOST - there) * no
    for visit in y.T:
        pair = torch.where(there >= visit[:, None], there, visit[:, None])
        ways = dist.Binomial(pair, 0.5).log_prob(visit[:, None]) - pair * torch.tensor(0.5).log()
        log = ways + visit[:, None] * see + (there - visit[:, None]) * miss
        total = total + torch.where(there >= visit[:, None], log, -torch.inf)
    return total


def test_the_bound_and_the_posterior_are_those_of_the_sum() -> None:
    blr, _ = engine(abundance, START, blocks="site", on_sampled="error")
    joint = log_joint_by_hand(COUNTS)
    expected = float(joint.logsumexp(-1).sum())
    for law in START.values():
        expected += float(-torch.distributions.kl_divergence(law, dist.Beta(1.0, 1.0)))
    assert -blr.evaluate_loss(COUNTS) == pytest.approx(expected, rel=1e-12)
    probs = blr.discrete_marginals(COUNTS)["there"].probs
    torch.testing.assert_close(probs.squeeze(-2), joint.softmax(-1))
    assert {f.tier for f in blr.explain(COUNTS).factors} == {"exact"}


def test_a_fit_is_certified() -> None:
    """Second derivatives are finite, and what bounds rounding errors is."""
    blr, _ = engine(abundance, START, on_sampled="error")
    fit = blr.fit(COUNTS)
    assert fit.converged and fit.steps < 50
    assert fit.losses == sorted(fit.losses, reverse=True)
    blr.step(COUNTS)
    assert blr.info.rounding < 1e-9


def test_masked_counts_may_be_anything() -> None:
    known = torch.tensor([True, False])
    wrong = torch.where(known, COUNTS, torch.nan)
    blr, _ = engine(abundance, START, on_sampled="error")
    expected, _ = engine(abundance, START, on_sampled="error")
    assert blr.fit(wrong, known).losses[-1] == pytest.approx(
        expected.fit(COUNTS[:, :1]).losses[-1], abs=1e-6
    )


def test_what_is_impossible_at_every_value_is_refused() -> None:
    blr, _ = engine(abundance, START)
    with pytest.raises(SupportError, match=r"'y' lies outside the support of Binomial\. Mend"):
        blr.step(COUNTS + MOST)
