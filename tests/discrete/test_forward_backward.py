# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Hidden chains summed out: the evidence, the smoothed marginals, and their own derivatives."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_blr.energy import chunked_messages
from pyro_blr.energy import forward_backward as chains
from pyro_blr.energy.forward_backward import log_evidence
from pyro_blr.energy.hidden_markov import ForwardSum, Sequences
from tests.oracles.forward_backward import forward_backward, silent_start

Logs = tuple[Tensor, Tensor, Tensor]


def draw(T: int, S: int, each: bool = False, batch: tuple[int, ...] = (), seed: int = 0) -> Logs:
    """Unnormalised logs, wide enough for paths to differ by tens of nats."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*batch, *shape, generator=make, dtype=torch.float64)

    return normal(S), 2 * normal(T if each else 1, S, S), 3 * normal(T, S)


def summed(logs: Logs) -> tuple[Tensor, Logs]:
    leaves = [t.clone().requires_grad_() for t in logs]
    total = log_evidence(*leaves)
    return total.detach(), torch.autograd.grad(total.sum(), leaves)


def check(total: Tensor, gradient: Logs, logs: Logs, rtol: float = 1e-12) -> None:
    """Against forward-backward in log space, one sequence."""
    T, S = logs[2].shape
    steps = logs[1].expand(T, S, S).numpy()
    exact = forward_backward(logs[0].numpy(), steps, silent_start(logs[2].numpy()))
    pairs = exact.pairs if len(logs[1]) == T else exact.pairs.sum(0, keepdims=True)
    assert float(total) == pytest.approx(exact.log_evidence, rel=rtol, abs=rtol)
    for own, other in zip(gradient, (exact.marginals[0], pairs, exact.marginals[1:]), strict=True):
        np.testing.assert_allclose(own.numpy(), other, rtol=1e-10, atol=1e-12)


LENGTHS = (1, 2, 7, 8, 9, 64, 65, 500)


@pytest.mark.parametrize("each", [False, True], ids=["homogeneous", "steps of their own"])
@pytest.mark.parametrize("T", LENGTHS)
def test_it_equals_forward_backward_in_log_space(T: int, each: bool) -> None:
    for S in (1, 2, 4):
        logs = draw(T, S, each)
        check(*summed(logs), logs)


@pytest.mark.parametrize("T", (3, 40))
def test_many_states_are_taken_step_by_step(T: int) -> None:
    S = 1 + round(chunked_messages.STARTING ** (1 / 3))
    for each in (False, True):
        logs = draw(T, S, each)
        check(*summed(logs), logs)


def test_sequences_of_a_batch_are_apart_and_share_what_has_no_batch_dims() -> None:
    T, S, batch = 21, 3, (2, 3)
    initial, transition, _ = draw(T, S)
    observation = draw(T, S, batch=batch)[2]
    total, gradient = summed((initial, transition, observation))
    assert total.shape == batch
    found = [torch.zeros_like(t) for t in (initial, transition)]
    for place in np.ndindex(*batch):
        one = (initial, transition, observation[place])
        own, by_hand = summed(one)
        torch.testing.assert_close(total[place], own, rtol=1e-13, atol=0)
        torch.testing.assert_close(gradient[2][place], by_hand[2], rtol=1e-11, atol=1e-13)
        found = [f + g for f, g in zip(found, by_hand[:2], strict=True)]
    torch.testing.assert_close(list(gradient[:2]), found, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("T", (1, 5, 30))
def test_what_is_impossible_has_no_part(T: int, each: bool) -> None:
    initial, transition, observation = draw(T, 4, each)
    initial[3] = -math.inf
    transition[:, 0, 1] = transition[:, 2, :2] = -math.inf
    observation[::3, 0] = -math.inf
    logs = initial, transition, observation
    total, gradient = summed(logs)
    check(total, gradient, logs)
    for own, log in zip(gradient, logs, strict=True):
        assert (own[log == -math.inf] == 0).all()


@pytest.mark.parametrize("T", (2, 9, 50))
def test_paths_that_differ_by_hundreds_of_nats_lose_nothing(T: int) -> None:
    # A state that is not left, while the data ask for the other one: both cost a thousand nats.
    transition = torch.tensor([[[0.0, -700.0], [-math.inf, 0.0]]], dtype=torch.float64)
    observation = torch.zeros(T, 2, dtype=torch.float64)
    observation[0, 1], observation[1, 0] = -900.0, -1100.0
    observation[T // 2 :] += torch.tensor([0.0, -40.0], dtype=torch.float64)
    logs = torch.tensor([-1.0, -0.5], dtype=torch.float64), transition, observation
    check(*summed(logs), logs)


def test_no_path_has_the_log_of_nothing() -> None:
    initial, transition, observation = draw(12, 3)
    observation[5] = -math.inf
    assert float(log_evidence(initial, transition, observation)) == -math.inf


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize("T", (1, 2, 11))
def test_derivatives_of_every_order_are_those_of_the_sum(T: int, each: bool) -> None:
    leaves = tuple(t.requires_grad_() for t in draw(T, 3, each, batch=(2,)))
    assert torch.autograd.gradcheck(log_evidence, leaves, atol=1e-7)
    assert torch.autograd.gradgradcheck(log_evidence, leaves, atol=1e-6)


@pytest.mark.parametrize("T", (4, 100))
def test_hessian_products_are_those_of_the_recursion_in_logarithms(T: int) -> None:
    leaves = [t.requires_grad_() for t in draw(T, 4)]
    leaves[1].data[0, 1, 2] = -math.inf
    directions = draw(T, 4, seed=1)

    def product(total: Tensor) -> tuple[Tensor, ...]:
        gradient = torch.autograd.grad(total, leaves, create_graph=True)
        return torch.autograd.grad(gradient, leaves, directions)

    initial, transition, observation = leaves
    in_logarithms = chains._one_by_one(initial, transition + observation.unsqueeze(-2))
    for own, other in zip(product(log_evidence(*leaves)), product(in_logarithms), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-9, atol=1e-10)


def test_masked_sequences_do_not_count() -> None:
    initial, transition, _ = draw(10, 3)
    observation = draw(10, 3, batch=(4,))[2].requires_grad_()
    mask = torch.tensor([True, False, True, False])
    total = ForwardSum(Sequences(torch.Size((4,)), mask, 2.5))(initial, transition, observation)
    expected = 2.5 * log_evidence(initial, transition, observation)[mask].sum()
    torch.testing.assert_close(total, expected)
    (gradient,) = torch.autograd.grad(total, observation)
    torch.testing.assert_close(gradient.sum(-1), 2.5 * mask.double()[:, None].expand(4, 10))
    assert (
        float(ForwardSum(Sequences(torch.Size((4,)), False, 1.0))(initial, transition, observation))
        == 0
    )
