# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Fits under a factorised q of discrete latents: block models and their like."""

import copy
import pickle
from itertools import pairwise
from math import comb

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from pyro.ops.indexing import Vindex
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural
from tests.oracles import block_model as oracle


def planted(nodes: int, blocks: int, inside: float, across: float, seed: int) -> tuple[Tensor, ...]:
    """Blocks of nodes, and which pairs are linked. # shape: (N,), (N, N)"""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randint(blocks, (nodes,), generator=generator)
    chance = torch.where(z[:, None] == z, inside, across)
    upper = (torch.rand(nodes, nodes, generator=generator) < chance).double().triu(1)
    return z, upper + upper.T


def block_model(adjacency: Tensor, blocks: int) -> None:
    nodes = len(adjacency)
    src, dst = torch.triu_indices(nodes, nodes, 1)
    share = pyro.sample("share", dist.Dirichlet(torch.ones(blocks).double()))
    one = torch.ones(blocks, blocks).double()
    b = pyro.sample("B", dist.Beta(one, one).to_event(2))
    with pyro.plate("nodes", nodes):
        z = pyro.sample("z", dist.Categorical(share))
    chance = Vindex(b)[..., z[..., src], z[..., dst]]  # with dims of draws in front, in Predictive
    with pyro.plate("edges", len(src)):
        pyro.sample("edge", dist.Bernoulli(chance), obs=adjacency[src, dst])


def fitted(adjacency: Tensor, blocks: int) -> tuple[BLR, AutoNatural]:
    guide = AutoNatural(block_model)
    blr = BLR(block_model, guide, discrete="factorised")
    assert blr.fit(adjacency, blocks).converged
    return blr, guide


def adjusted_rand(left: Tensor, right: Tensor) -> float:
    """The adjusted Rand index of two partitions."""

    def pairs(labels: Tensor) -> int:
        return sum(comb(int(n), 2) for n in labels.unique(return_counts=True)[1])

    both, one, other = pairs(left * 1000 + right), pairs(left), pairs(right)
    expected = one * other / comb(len(left), 2)
    return (both - expected) / (0.5 * (one + other) - expected)


def log_odds(tau: np.ndarray) -> Tensor:
    probs = torch.as_tensor(tau)
    return (probs[:, :-1] / probs[:, -1:]).log()


def test_fixed_point_is_that_of_coordinate_ascent() -> None:
    torch.manual_seed(0)
    _, adjacency = planted(20, 2, 0.55, 0.2, 1)
    start = np.random.default_rng(0).dirichlet(np.ones(2), 20)
    states = oracle.coordinate_ascent(adjacency.numpy(), start, 400)
    known = oracle.elbo(adjacency.numpy(), states[-1])
    assert states[-1].tau.max(1).min() < 0.99, "some nodes are between the blocks"
    guide = AutoNatural(block_model)
    guide.set_natural({"z": (log_odds(start),)})
    blr = BLR(block_model, guide, discrete="factorised")
    assert blr.fit(adjacency, 2, tol=1e-15).converged
    assert blr.evaluate_loss(adjacency, 2) == pytest.approx(-known, abs=1e-8)
    tau = blr.discrete_marginals(adjacency, 2)["z"].probs
    assert np.abs(tau.numpy() - states[-1].tau).max() < 1e-8
    beta = guide.marginal("B").base_dist
    assert np.allclose(beta.concentration1, states[-1].first, atol=1e-6)


def test_elbo_at_any_q_is_that_of_the_oracle() -> None:
    _, adjacency = planted(9, 3, 0.6, 0.2, 2)
    tau = np.random.default_rng(3).dirichlet(np.ones(3), 9)
    own = oracle.parameters_of(adjacency.numpy(), tau)
    guide = AutoNatural(block_model)
    first, second = torch.as_tensor(own.first), torch.as_tensor(own.second)
    guide.set_natural(
        {
            "z": (log_odds(tau),),
            "B": (first - 1, second - 1),
            "share": (torch.as_tensor(own.alpha) - 1,),
        }
    )
    blr = BLR(block_model, guide, discrete="factorised")
    expected = oracle.elbo(adjacency.numpy(), own)
    assert blr.evaluate_loss(adjacency, 3) == pytest.approx(-expected, abs=1e-9)


def test_check_of_constants_sees_the_drawn_start() -> None:
    pyro.set_rng_seed(0)
    _, adjacency = planted(12, 2, 0.7, 0.2, 3)
    guide = AutoNatural(block_model)
    blr = BLR(block_model, guide, discrete="factorised", check_every=1)
    assert blr.step(adjacency, 2) >= blr.step(adjacency, 2) - 1e-9


def test_never_falls() -> None:
    pyro.set_rng_seed(0)
    _, adjacency = planted(25, 3, 0.5, 0.2, 3)
    guide = AutoNatural(block_model)
    guide.set_natural({"z": (torch.randn(25, 2).double(),)})
    blr = BLR(block_model, guide, discrete="factorised")
    losses = [blr.step(adjacency, 3) for _ in range(40)]
    assert all(b <= a + 1e-8 for a, b in pairwise(losses))


@pytest.mark.parametrize("seed", range(5))
def test_planted_blocks_are_found(seed: int) -> None:
    pyro.set_rng_seed(seed)
    z, adjacency = planted(60, 3, 0.5, 0.08, 20 + seed)
    blr, _ = fitted(adjacency, 3)
    found = blr.discrete_marginals(adjacency, 3)["z"].probs.argmax(-1)
    assert adjusted_rand(found, z) > 0.9


def test_disassortative_blocks_are_found() -> None:
    pyro.set_rng_seed(0)
    z, adjacency = planted(60, 2, 0.1, 0.5, 0)
    blr, _ = fitted(adjacency, 2)
    found = blr.discrete_marginals(adjacency, 2)["z"].probs.argmax(-1)
    assert adjusted_rand(found, z) > 0.9


def test_explanation_and_certificate() -> None:
    pyro.set_rng_seed(0)
    _, adjacency = planted(20, 2, 0.6, 0.2, 0)
    blr, _ = fitted(adjacency, 2)
    text = str(blr.explain(adjacency, 2))
    assert "z is discrete and factorised in q: 20 independent elements of 2 values" in text
    assert all(f.tier == "exact" for f in blr.explain(adjacency, 2).factors)
    assert blr.fit(adjacency, 2).gap < 1e-6


def test_guide_has_draws_quantiles_and_copies() -> None:
    pyro.set_rng_seed(0)
    _, adjacency = planted(15, 2, 0.7, 0.2, 0)
    blr, guide = fitted(adjacency, 2)
    probs = guide.marginal("z").probs
    draws = guide.sample_posterior(4000)["z"]
    assert draws.shape == (4000, 15)
    assert draws.dtype == torch.long
    assert torch.allclose((draws == 1).double().mean(0), probs[:, 1].double(), atol=0.05)
    middle = guide.median(adjacency, 2)["z"]
    assert torch.equal(middle, (probs[:, 1] > 0.5).long())
    predicted = Predictive(block_model, guide=guide, num_samples=3)(adjacency, 2)
    assert predicted["z"].squeeze().shape == (3, 15)
    loss = blr.evaluate_loss(adjacency, 2)
    for other in (copy.deepcopy(blr), pickle.loads(pickle.dumps(blr))):
        assert other.evaluate_loss(adjacency, 2) == pytest.approx(loss, abs=1e-12)
    fresh = BLR(block_model, AutoNatural(block_model), discrete="factorised")
    fresh.load_state_dict(blr.state_dict())
    assert fresh.step(adjacency, 2) == pytest.approx(loss, abs=1e-12)


def mixture(x: Tensor, classes: int) -> None:
    share = pyro.sample("share", dist.Dirichlet(torch.ones(classes).double()))
    with pyro.plate("classes", classes):
        loc = pyro.sample("loc", dist.Normal(torch.tensor(0.0).double(), 5.0))
        tau = pyro.sample("tau", dist.Gamma(torch.tensor(2.0).double(), 1.0))
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Categorical(share))
        pyro.sample("x", dist.Normal(loc[z], tau[z].rsqrt()), obs=x)


def test_mixture_is_as_where_its_classes_are_summed_out() -> None:
    """There q(z) is factorised anyway: both bounds have the same optimum."""
    torch.manual_seed(0)
    x = torch.cat([torch.randn(30).double() - 3, torch.randn(20).double() + 2])
    losses = []
    for discrete in (None, "factorised"):
        pyro.set_rng_seed(1)
        guide = AutoNatural(mixture)
        blr = BLR(mixture, guide, discrete=discrete)
        assert blr.fit(x, 2).converged
        losses.append(blr.evaluate_loss(x, 2))
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


def test_ising_model_leaves_the_saddle() -> None:
    """Mean-field equations of a ferromagnet: m = tanh(sum_j J m_j), not 0 where J is large."""
    pyro.set_rng_seed(0)
    nodes, coupling = 12, 0.2

    def model() -> None:
        with pyro.plate("sites", nodes):
            s = pyro.sample("s", dist.Bernoulli(torch.tensor(0.5).double()))
        spin = 2 * s - 1
        i, j = torch.triu_indices(nodes, nodes, 1)
        pyro.factor("energy", coupling * (spin[i] * spin[j]).sum())

    guide = AutoNatural(model)
    blr = BLR(model, guide, discrete="factorised")
    assert blr.fit().converged
    m = 2 * blr.discrete_marginals()["s"].probs - 1
    assert torch.allclose(m, torch.tanh(coupling * (m.sum() - m)), atol=1e-5)
    assert m.abs().min() > 0.9


def test_names_without_a_plate() -> None:
    """Nodes in a Python loop are coordinate ascent itself."""
    _, adjacency = planted(6, 2, 0.9, 0.1, 4)

    def model() -> None:
        share = torch.tensor([0.5, 0.5]).double()
        b = torch.tensor([[0.8, 0.2], [0.2, 0.7]]).double()
        z = [pyro.sample(f"z{n}", dist.Categorical(share)) for n in range(6)]
        for i in range(6):
            for j in range(i):
                pyro.sample(f"e{i}{j}", dist.Bernoulli(b[z[i], z[j]]), obs=adjacency[i, j])

    blr = BLR(model, AutoNatural(model), discrete="factorised")
    assert blr.fit().converged
    assert all(f.conjugate for f in blr.explain().factors)
