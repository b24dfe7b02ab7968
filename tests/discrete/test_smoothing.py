# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Chains with known parameters: evidence and smoothing marginals are those of forward-backward."""

from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural
from tests.discrete.models import apart, draw, randn
from tests.oracles.forward_backward import forward_backward, silent_start

K, T = 3, 40
INITIAL = draw(0, dist.Dirichlet(torch.ones(K)))
MOVES = draw(1, dist.Dirichlet(torch.ones(K)), K)
MU = torch.tensor([-2.0, 0.0, 3.0])
Y = apart(2, T, distance=2.0)


def dummy() -> None:
    """A latent that nothing depends on: q is its prior, and adds nothing to the bound."""
    pyro.sample("dummy", dist.Normal(0.0, 1.0))


def loop(y: torch.Tensor, there: torch.Tensor | None = None) -> None:
    dummy()
    z: Any = None
    for t in pyro.markov(range(len(y))):
        z = pyro.sample(f"z{t}", dist.Categorical(INITIAL if t == 0 else MOVES[z]))
        with pyro.poutine.mask(mask=True if there is None else bool(there[t])):
            pyro.sample(f"y{t}", dist.Normal(MU[z], 1.0), obs=y[t])


def batch(y: torch.Tensor, there: torch.Tensor | None = None) -> None:
    """Sequences in a plate. # shape of y: (S, T)"""
    dummy()
    with pyro.plate("sequences", len(y)):
        z: Any = None
        for t in pyro.markov(range(y.shape[1])):
            z = pyro.sample(f"z{t}", dist.Categorical(INITIAL if t == 0 else MOVES[z]))
            with pyro.poutine.mask(mask=True if there is None else there[:, t]):
                pyro.sample(f"y{t}", dist.Normal(MU[z], 1.0), obs=y[:, t])


def likelihood(y: torch.Tensor) -> np.ndarray:
    logs: np.ndarray = dist.Normal(MU, 1.0).log_prob(y[:, None]).numpy()
    return logs


def smoothed(y: torch.Tensor, there: torch.Tensor | None = None) -> Any:
    logs = likelihood(y)
    logs = logs if there is None else logs * there.numpy()[:, None]
    return forward_backward(np.log(INITIAL.numpy()), np.log(MOVES.numpy()), logs)


def close(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, atol=1e-10)


def test_a_loop_is_smoothed_exactly() -> None:
    blr = BLR(loop, AutoNatural(loop))
    blr.step(Y)
    expected = smoothed(Y)
    assert -blr.evaluate_loss(Y) == pytest.approx(expected.log_evidence, abs=1e-10)
    marginals = blr.discrete_marginals(Y)
    close([marginals[f"z{t}"].probs.numpy() for t in range(T)], expected.marginals)


def test_missing_steps_are_smoothed_over() -> None:
    there = torch.arange(T) % 3 != 0
    there[-5:] = False
    blr = BLR(loop, AutoNatural(loop))
    blr.step(Y, there)
    expected = smoothed(Y, there)
    assert -blr.evaluate_loss(Y, there) == pytest.approx(expected.log_evidence, abs=1e-10)
    marginals = blr.discrete_marginals(Y, there)
    close([marginals[f"z{t}"].probs.numpy() for t in range(T)], expected.marginals)


@pytest.mark.parametrize("all_there", [True, False])
def test_sequences_of_a_plate_are_smoothed_each_on_its_own(all_there: bool) -> None:
    """One of them is missing altogether, others have their ends missing."""
    y = Y.reshape(5, 8)
    there = torch.arange(8) < torch.tensor([8, 3, 0, 1, 5])[:, None]
    own = None if all_there else there
    blr = BLR(batch, AutoNatural(batch))
    blr.step(y, own)
    expected = [smoothed(row, None if all_there else at) for row, at in zip(y, there, strict=True)]
    total = sum(e.log_evidence for e in expected)
    assert -blr.evaluate_loss(y, own) == pytest.approx(total, abs=1e-10)
    marginals = blr.discrete_marginals(y, own)
    found = np.stack([marginals[f"z{t}"].probs.numpy() for t in range(8)], 1)
    close(found, np.stack([e.marginals for e in expected]))


def test_one_step_is_a_chain() -> None:
    for model, y in ((loop, Y[:1]), (batch, Y[:3, None])):
        blr = BLR(model, AutoNatural(model))
        blr.step(y)
        rows = y.reshape(-1, 1)
        total = sum(smoothed(row).log_evidence for row in rows)
        assert -blr.evaluate_loss(y) == pytest.approx(total, abs=1e-12)


SD = 0.01


def with_nearly_known_means(y: torch.Tensor) -> None:
    """DiscreteHMM is summed out by the package where an argument is random."""
    mu = pyro.sample("mu", dist.Normal(MU, SD).to_event(1))
    law = dist.Normal(mu, 1.0)
    if y.dim() == 1:
        pyro.sample("y", dist.DiscreteHMM(INITIAL.log(), MOVES.log(), law), obs=y)
        return
    with pyro.plate("sequences", len(y)):
        pyro.sample("y", dist.DiscreteHMM(INITIAL.log(), MOVES.log(), law), obs=y)


@pytest.mark.parametrize("y", [Y, Y[:1], Y.reshape(5, 8)], ids=["one", "a step", "sequences"])
def test_the_discrete_chain_of_pyro_is_smoothed_exactly(y: torch.Tensor) -> None:
    model = with_nearly_known_means
    guide = AutoNatural(model)
    guide.set_natural({"mu": dist.MultivariateNormal(MU, scale_tril=SD * torch.eye(K))})
    blr = BLR(model, guide)
    expected = [
        forward_backward(
            np.log(INITIAL.numpy()),
            np.log(MOVES.numpy()),
            silent_start(likelihood(row) - SD**2 / 2),
        )
        for row in y.reshape(-1, y.shape[-1])
    ]
    total = sum(e.log_evidence for e in expected)
    assert -blr.evaluate_loss(y) == pytest.approx(total, abs=1e-10)
    found = blr.discrete_marginals(y)["y.states"].probs.numpy()
    close(found.reshape(-1, y.shape[-1], K), np.stack([e.marginals[1:] for e in expected]))


@pytest.mark.parametrize("there", [[True, False, True, False, True], [False] * 5, False])
@pytest.mark.parametrize("blocks", ["site", "auto"])
def test_masked_sequences_of_pyros_chain_are_left_out(there: Any, blocks: str) -> None:
    y = Y.reshape(5, 8)
    mask = torch.tensor(there) if isinstance(there, list) else there

    def model(y: torch.Tensor) -> None:
        mu = pyro.sample("mu", dist.Normal(MU, SD).to_event(1))
        law = dist.DiscreteHMM(INITIAL.log(), MOVES.log(), dist.Normal(mu, 1.0))
        with pyro.plate("sequences", len(y)), pyro.poutine.mask(mask=mask):
            pyro.sample("y", law, obs=y)

    guide = AutoNatural(model)
    start = {"mu": dist.MultivariateNormal(MU, scale_tril=SD * torch.eye(K))}
    guide.set_natural(start)
    blr = BLR(model, guide, blocks=blocks)
    rows = y[torch.as_tensor(mask).expand(5)]
    total = sum(
        forward_backward(
            np.log(INITIAL.numpy()),
            np.log(MOVES.numpy()),
            silent_start(likelihood(row) - SD**2 / 2),
        ).log_evidence
        for row in rows
    )
    assert -blr.evaluate_loss(y) == pytest.approx(total, abs=1e-10)
    blr.step(y)


def test_chains_of_known_parameters_need_no_lifting() -> None:
    """With nothing random in it DiscreteHMM is Pyro's own."""

    def known(y: torch.Tensor) -> None:
        dummy()
        law = dist.Normal(MU, 1.0)
        pyro.sample("y", dist.DiscreteHMM(INITIAL.log(), MOVES.log(), law), obs=y)

    blr = BLR(known, AutoNatural(known))
    blr.step(Y)
    start = silent_start(likelihood(Y))
    evidence = forward_backward(np.log(INITIAL.numpy()), np.log(MOVES.numpy()), start).log_evidence
    assert -blr.evaluate_loss(Y) == pytest.approx(evidence, abs=1e-10)


def test_moves_that_cannot_be_made_have_no_probability() -> None:
    stay = torch.tensor([[0.9, 0.1, 0.0], [0.0, 0.9, 0.1], [0.0, 0.0, 1.0]])

    def left_to_right(y: torch.Tensor) -> None:
        dummy()
        z: Any = torch.tensor(0)
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z{t}", dist.Categorical(stay[z]))
            pyro.sample(f"y{t}", dist.Normal(MU[z], 1.0), obs=y[t])

    blr = BLR(left_to_right, AutoNatural(left_to_right))
    blr.step(Y)
    with np.errstate(divide="ignore"):
        moves = np.log(stay.numpy())
    expected = forward_backward(moves[0], moves, likelihood(Y))
    assert -blr.evaluate_loss(Y) == pytest.approx(expected.log_evidence, abs=1e-9)
    marginals = blr.discrete_marginals(Y)
    close([marginals[f"z{t}"].probs.numpy() for t in range(T)], expected.marginals)


def test_inputs_of_a_chain_may_move_it() -> None:
    """Transition probabilities of their own at each step."""
    moves = draw(5, dist.Dirichlet(torch.ones(K)), T, K)

    def driven(y: torch.Tensor) -> None:
        dummy()
        z: Any = None
        for t in pyro.markov(range(len(y))):
            z = pyro.sample(f"z{t}", dist.Categorical(INITIAL if t == 0 else moves[t][z]))
            pyro.sample(f"y{t}", dist.Normal(MU[z], 1.0), obs=y[t])

    blr = BLR(driven, AutoNatural(driven))
    blr.step(Y)
    logs = likelihood(Y)
    expected = forward_backward(np.log(INITIAL.numpy()), np.log(moves[1:].numpy()), logs)
    assert -blr.evaluate_loss(Y) == pytest.approx(expected.log_evidence, abs=1e-10)


def test_a_chain_of_higher_order_is_the_sum_over_its_paths() -> None:
    moves = draw(6, dist.Dirichlet(torch.ones(2)), 2, 2)
    y = randn(7, 7)

    def second_order(y: torch.Tensor) -> None:
        dummy()
        before: Any = torch.tensor(0)
        last: Any = torch.tensor(0)
        for t in pyro.markov(range(len(y)), history=2):
            z = pyro.sample(
                f"z{t}", dist.Categorical(pyro.ops.indexing.Vindex(moves)[before, last])
            )
            pyro.sample(f"y{t}", dist.Normal(MU[z], 1.0), obs=y[t])
            before, last = last, z

    blr = BLR(second_order, AutoNatural(second_order))
    blr.step(y)
    # As a chain of pairs (before, last), from (0, 0).
    pairs = np.zeros((4, 4))
    for a in range(2):
        for b in range(2):
            for c in range(2):
                pairs[2 * a + b, 2 * b + c] = moves[a, b, c]
    with np.errstate(divide="ignore"):
        moved = np.log(pairs)
    logs = likelihood(y)[:, [0, 1, 0, 1]]
    expected = forward_backward(moved[0], moved, logs)
    assert -blr.evaluate_loss(y) == pytest.approx(expected.log_evidence, abs=1e-10)
