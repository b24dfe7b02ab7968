# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The first step leaves the saddle where all components of a mixture are at one place."""

import itertools
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural
from tests.checks import engine
from tests.discrete import models
from tests.discrete.hand_made import CASES
from tests.discrete.models import apart, draw, weights

CENTRES = (-8.0, 0.0, 8.0)
Y = apart(0, 60, distance=8.0)


def clusters(y: torch.Tensor, K: int = 3) -> None:
    theta = weights(K)
    with pyro.plate("k", K):
        mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        tau = pyro.sample("tau", dist.Gamma(1.0, 1.0))
    with pyro.plate("n", len(y)):
        z = pyro.sample("z", dist.Categorical(theta))
        pyro.sample("y", dist.Normal(mu[z], tau[z].rsqrt()), obs=y)


def means(guide: Any) -> torch.Tensor:
    found: torch.Tensor = guide.marginal("mu").mean
    return found


@pytest.mark.parametrize("seed", range(5))
def test_steps_alone_find_every_cluster(seed: int) -> None:
    pyro.set_rng_seed(seed)
    guide = AutoNatural(clusters)
    blr = BLR(clusters, guide)
    for _ in range(15):
        blr.step(Y)
    assert means(guide).sort().values == pytest.approx(CENTRES, abs=0.8)
    assert blr.fit(Y).converged


def test_the_same_seed_gives_the_same_fit() -> None:
    found = []
    for _ in range(2):
        pyro.clear_param_store()
        pyro.set_rng_seed(3)
        guide = AutoNatural(clusters)
        blr = BLR(clusters, guide)
        for _ in range(3):
            blr.step(Y)
        found.append((means(guide), blr.evaluate_loss(Y)))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


def test_a_start_that_tells_components_apart_is_left_alone() -> None:
    """Even if another one would be better: two components at one of the clusters."""
    start = {
        "mu": dist.Normal(torch.tensor([-8.0, 7.5, 8.5]), 0.1),
        "tau": dist.Gamma(torch.full((3,), 2.0), 2.0),
        "theta": dist.Dirichlet(torch.ones(3)),
    }
    blr, guide = engine(clusters, start, step_size=1.0)
    blr.evaluate_loss(Y)
    before = torch.random.get_rng_state()
    blr.step(Y)
    assert torch.equal(before, torch.random.get_rng_state())
    assert means(guide)[0] < -4 < 4 < means(guide)[2]


def test_a_start_that_is_better_than_all_seeds_is_kept() -> None:
    """One cluster: all components at its place are as good as it gets with sparse weights."""

    def sparse(y: torch.Tensor) -> None:
        theta = weights(2, 1e-3)
        with pyro.plate("k", 2):
            mu = pyro.sample("mu", dist.Normal(0.0, 10.0))
        with pyro.plate("n", len(y)):
            z = pyro.sample("z", dist.Categorical(theta))
            pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)

    y = models.randn(4, 30)
    blr, _ = engine(sparse)
    first = blr.step(y)
    fit = blr.fit(y)
    assert fit.converged
    assert fit.losses[-1] <= first


TOPICS = draw(
    1, dist.Multinomial(4, torch.tensor([0.4, 0.4, 0.1, 0.05, 0.05]), validate_args=False), 4
)
UNSEEDED = {
    "counts": (models.counts, CASES["counts"].args),
    "full": (models.full_normals, CASES["full normals"].args),
    "joint": (models.joint_normals, CASES["full normals"].args),
    "words": (models.multinomials, (TOPICS,)),
    "topics": (CASES["topics"].model, CASES["topics"].args),
    "nested topics": (models.nested_topics, CASES["nested topics"].args),
    "chain": (models.markov, CASES["chain"].args),
    "chains": (models.markov_batch, CASES["chains"].args),
    "DiscreteHMM": (models.discrete_hmm, CASES["DiscreteHMM"].args),
    "nested classes": (models.nested_classes, (apart(5, 30).reshape(3, 10),)),
    "local latents": (models.local_latents, (apart(5, 30, classes=2),)),
    "two emissions": (
        models.two_emissions,
        (apart(5, 30, classes=2), (torch.arange(30) % 2) * 6.0),
    ),
}


@pytest.mark.parametrize(("model", "args"), UNSEEDED.values(), ids=UNSEEDED)
def test_no_model_stays_where_its_components_are_the_same(model: Any, args: Any) -> None:
    blr, _ = engine(model, on_sampled="error")
    losses = [blr.step(*args) for _ in range(4)]
    assert max(b - a for a, b in itertools.pairwise(losses)) < 1e-8
    found = blr.discrete_marginals(*args)
    spread = max(float(law.probs.std(-1).max()) for law in found.values() if law.probs.dim())
    assert spread > 0.1, "the components are still the same"
