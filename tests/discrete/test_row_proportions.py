# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Proportions that each row has to itself come to their optimum before others move on."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR, Parts
from pyro_blr.guides import AutoNatural

DOCUMENTS, TOKENS, K, V = 40, 25, 4, 30


def words(seed: int) -> Tensor:  # shape: (documents, tokens)
    make = np.random.default_rng(seed)
    theta = make.dirichlet(np.full(K, 0.2), size=DOCUMENTS)
    phi = make.dirichlet(np.full(V, 0.1), size=K)
    return torch.tensor(
        [[make.choice(V, p=phi[make.choice(K, p=t)]) for _ in range(TOKENS)] for t in theta]
    )


def topics() -> Tensor:
    with pyro.plate("topics", K):
        phi: Tensor = pyro.sample("phi", dist.Dirichlet(torch.full((V,), 0.1)))
    return phi


def nested(w: Tensor) -> None:
    """A plate of tokens within that of documents."""
    phi = topics()
    with pyro.plate("documents", len(w), dim=-2):
        theta = pyro.sample("theta", dist.Dirichlet(torch.full((K,), 0.5)))
        with pyro.plate("tokens", w.shape[1], dim=-1):
            z = pyro.sample("z", dist.Categorical(theta))
            pyro.sample("w", dist.Categorical(phi[z]), obs=w)


def ragged(w: Tensor) -> None:
    """One plate of all tokens, as documents of unlike lengths need."""
    phi = topics()
    with pyro.plate("documents", len(w)):
        theta = pyro.sample("theta", dist.Dirichlet(torch.full((K,), 0.5)))
    doc = torch.arange(len(w)).repeat_interleave(w.shape[1])
    with pyro.plate("tokens", w.numel()):
        z = pyro.sample("z", dist.Categorical(theta[doc]))
        pyro.sample("w", dist.Categorical(phi[z]), obs=w.flatten())


def looped(w: Tensor) -> None:
    """A loop over the tokens of all documents."""
    phi = topics()
    with pyro.plate("documents", len(w)):
        theta = pyro.sample("theta", dist.Dirichlet(torch.full((K,), 0.5)))
        for t in range(3):
            z = pyro.sample(f"z_{t}", dist.Categorical(theta))
            pyro.sample(f"w_{t}", dist.Categorical(phi[z]), obs=w[:, t])


def mixture(w: Tensor) -> None:
    """Proportions that all rows share."""
    pi = pyro.sample("pi", dist.Dirichlet(torch.ones(K)))
    phi = topics()
    with pyro.plate("rows", len(w)):
        z = pyro.sample("z", dist.Categorical(pi))
        pyro.sample("w", dist.Categorical(phi[z]), obs=w[:, 0])


def groups(w: Tensor) -> None:
    """Proportions of some groups of rows; ``theta`` stands in the likelihood too."""
    phi = topics()
    group = torch.arange(len(w)) % 3
    with pyro.plate("groups", 3):
        theta = pyro.sample("theta", dist.Dirichlet(torch.ones(K)))
    with pyro.plate("rows", len(w)):
        z = pyro.sample("z", dist.Categorical(theta[group]))
        pyro.sample("w", dist.Categorical(phi[z]), obs=w[:, 0])
        pyro.sample("told", dist.Categorical(theta[group]), obs=w[:, 1] % K)


def chain(w: Tensor) -> None:
    """Transitions, which the last state selects."""
    with pyro.plate("from", K):
        rows = pyro.sample("rows", dist.Dirichlet(torch.ones(K)))
    phi, z = topics(), torch.tensor(0)
    for t in pyro.markov(range(4)):
        z = pyro.sample(f"z_{t}", dist.Categorical(rows[z]))
        pyro.sample(f"w_{t}", dist.Categorical(phi[z]), obs=w[0, t])


def hidden_chain(w: Tensor) -> None:
    with pyro.plate("from", K):
        rows = pyro.sample("rows", dist.Dirichlet(torch.ones(K)))
    emissions = dist.Categorical(topics())
    pyro.sample("w", dist.DiscreteHMM(torch.zeros(K), rows.log(), emissions), obs=w[0])


def engine(model: Callable[..., None], seed: int = 0, **options: Any) -> BLR:
    guide = AutoNatural(model)
    gamma = np.random.default_rng(seed).gamma(100.0, 0.01, size=(K, V))
    guide.set_natural({"phi": dist.Dirichlet(torch.from_numpy(gamma))})
    return BLR(model, guide, **options)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        *((nested, {"theta"}), (ragged, {"theta"}), (looped, {"theta"}), (groups, {"theta"})),
        *((mixture, set()), (chain, set()), (hidden_chain, set())),
    ],
)
def test_which_they_are(model: Callable[..., None], expected: set[str]) -> None:
    w = words(0)
    blr = engine(model)
    blr.evaluate_loss(w)
    energy = blr._objective((w,), {}).energy
    assert {b.name for b in energy.row_proportions} == expected


@pytest.mark.parametrize("model", [nested, ragged, looped])
def test_a_step_leaves_them_at_their_optimum(model: Callable[..., None]) -> None:
    w = words(0)
    blr = engine(model)
    losses = [blr.step(w) for _ in range(6)]
    assert all(after <= before + 1e-9 for before, after in pairwise(losses))
    theta = blr.guide.marginal("theta").concentration
    message = blr.messages(w)["theta"][0] + 1.0
    assert (message - theta).abs().max() < 0.05 * TOKENS


def test_spellings_agree() -> None:
    w = words(0)
    first, second = engine(nested), engine(ragged)
    for _ in range(5):
        assert first.step(w) == pytest.approx(second.step(w), rel=1e-12)


def test_topics_end_in_a_better_optimum_than_by_plain_sweeps() -> None:
    """From most starts: with all proportions half-way, topics that differ are averaged."""
    w, gains = words(1), []
    for seed in range(5):
        found = []
        for options in ({}, {"step_size": 1.0}):
            pyro.clear_param_store()
            blr = engine(ragged, seed, **options)
            for _ in range(40):
                blr.step(w)
            found.append(blr.evaluate_loss(w))
        gains.append(found[1] - found[0])
    assert median(gains) > 5.0


def test_shared_proportions_need_no_more_passes_over_data_in_parts() -> None:
    w, passes = words(2), []

    def parts() -> Iterator[tuple[Tensor]]:
        passes.append(1)
        yield from ((part,) for part in w.split(10))

    blr = engine(groups)
    for _ in range(2):
        passes.clear()
        blr.step(Parts(parts))
    assert len(passes) <= 4
