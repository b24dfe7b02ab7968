# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Data that are impossible at some values of a discrete latent: these have no probability."""

from collections.abc import Callable
from typing import Any

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


# ------------------------------------------------------------- probabilities and rates that are 0

VISITS = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
NOTHING = torch.tensor(1e-300)  # as good as 0, and has a logarithm
Law = Callable[[Tensor, Tensor], Any]


def latents_and_data(law: Law, prior: Any) -> Callable[[Tensor], None]:
    """A latent that is there or not, for each row. # shape of the data: (rows, visits)"""

    def model(y: Tensor) -> None:
        psi = pyro.sample("psi", dist.Beta(1.0, 1.0))
        x = pyro.sample("x", prior)
        with pyro.plate("rows", y.shape[0], dim=-2):
            z = pyro.sample("z", dist.Bernoulli(psi))
            with pyro.plate("visits", y.shape[1], dim=-1):
                pyro.sample("y", law(z, x), obs=y)

    return model


OCCUPIED: dict[str, Law] = {
    "product": lambda z, p: dist.Bernoulli(z * p),
    "where": lambda z, p: dist.Bernoulli(torch.where(z == 1, p, 0.0)),
    "table": lambda z, p: dist.Bernoulli(torch.stack([torch.zeros(()), p])[z.long()]),
    "Binomial": lambda z, p: dist.Binomial(1, p * z),
}
INFLATED: dict[str, Law] = {
    "product": lambda z, rate: dist.Poisson(z * rate),
    "where": lambda z, rate: dist.Poisson(torch.where(z == 1, rate, 0.0)),
    "of the other": lambda z, rate: dist.Poisson(2 * rate * (z == 1) / 2),
}
ROWS = [(n, law, dist.Beta(1.0, 1.0), dist.Bernoulli) for n, law in OCCUPIED.items()] + [
    (n, law, dist.Gamma(1.0, 1.0), dist.Poisson) for n, law in INFLATED.items()
]


@pytest.mark.parametrize(("name", "law", "prior", "kind"), ROWS, ids=lambda a: str(a)[:12])
def test_what_is_0_is_as_what_is_nearly_so(name: str, law: Law, prior: Any, kind: Any) -> None:
    y = VISITS if kind is dist.Bernoulli else 3 * VISITS
    blr, guide = engine(latents_and_data(law, prior), on_sampled="error")
    nearly = latents_and_data(lambda z, x: kind(torch.where(z == 1, x, NOTHING)), prior)
    expected, other = engine(nearly, on_sampled="error")
    for _ in range(3):
        assert blr.step(y) == pytest.approx(expected.step(y), rel=1e-11)
    torch.testing.assert_close(guide.marginal("x").mean, other.marginal("x").mean)
    found, wanted = (e.discrete_marginals(y)["z"].probs for e in (blr, expected))
    torch.testing.assert_close(found, wanted)
    assert {(f.tier, f.conjugate) for f in blr.explain(y).factors} == {("exact", True)}
    assert blr.fit(y).converged


def test_a_chain_of_what_lives_and_is_seen() -> None:
    """Survival ``phi * z`` and detection ``rho * z``, with the first ones masked."""
    y = torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 1.0, 0.0], [1.0, 0.0, 0.0, 0.0]])

    def lives(y: Tensor, nothing: Tensor) -> None:
        phi = pyro.sample("phi", dist.Beta(1.0, 1.0))
        rho = pyro.sample("rho", dist.Beta(1.0, 1.0))
        with pyro.plate("animals", len(y)):
            z, caught = torch.ones(len(y)), torch.zeros(len(y), dtype=torch.bool)
            for t in pyro.markov(range(y.shape[1])):
                with poutine.mask(mask=caught):
                    alive = phi * z if nothing == 0 else torch.where(z == 1, phi, nothing)
                    z = pyro.sample(f"z{t}", dist.Bernoulli(alive))
                    seen = rho * z if nothing == 0 else torch.where(z == 1, rho, nothing)
                    pyro.sample(f"y{t}", dist.Bernoulli(seen), obs=y[:, t])
                caught = caught | y[:, t].bool()

    blr, _ = engine(lives, on_sampled="error")
    expected, _ = engine(lives, on_sampled="error")
    for _ in range(3):
        found, wanted = blr.step(y, torch.zeros(())), expected.step(y, NOTHING)
        assert found == pytest.approx(wanted, rel=1e-11)
    assert blr.fit(y, torch.zeros(())).converged


def test_a_hurdle_by_a_factor() -> None:
    """An infinite branch of `torch.where` beside a latent one."""

    def hurdle(y: Tensor, nothing: float) -> None:
        gate = pyro.sample("gate", dist.Beta(1.0, 1.0))
        rate = pyro.sample("rate", dist.Gamma(1.0, 1.0))
        with pyro.plate("rows", len(y)):
            z = pyro.sample("z", dist.Bernoulli(gate))
            empty = torch.where(y == 0, 0.0, nothing)
            pyro.factor("y", torch.where(z == 1, dist.Poisson(rate).log_prob(y), empty))

    y = torch.tensor([0.0, 0.0, 3.0, 1.0, 0.0])
    blr, _ = engine(hurdle, on_sampled="error")
    expected, _ = engine(hurdle, on_sampled="error")
    for _ in range(3):
        assert blr.step(y, -torch.inf) == pytest.approx(expected.step(y, -1e3), rel=1e-11)
    assert blr.fit(y, -torch.inf).converged
