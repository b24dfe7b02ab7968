# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The score function against enumeration."""

import math

import pytest
import torch

from pyro_blr.estimators import score_function
from tests.oracles import monte_carlo

LOGITS = torch.tensor([0.2, -0.5, 0.9], dtype=torch.float64)
#: A large constant: without a control variate it would be most of the noise.
VALUES = torch.tensor([10.3, 9.1, 10.8], dtype=torch.float64)
REPEATS = 3000


def estimates(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Values and gradients in the logits, of many sets of draws at once."""
    generator = torch.Generator().manual_seed(count)
    drawn = torch.multinomial(LOGITS.softmax(-1), REPEATS * count, True, generator=generator)
    drawn = drawn.reshape(REPEATS, count)
    logits = LOGITS.expand(REPEATS, 3).clone().requires_grad_()
    log_q = logits.log_softmax(-1).gather(-1, drawn)
    each = torch.stack([score_function(VALUES[d], q) for d, q in zip(drawn, log_q, strict=True)])
    (slopes,) = torch.autograd.grad(each.sum(), logits)
    return each.detach(), slopes


@pytest.mark.parametrize("count", [1, 2, 7])
def test_against_enumeration(count: int) -> None:
    """Catches a baseline that holds the draw's own value (a bias of 1/count), and a value whose
    own derivative is counted."""
    logits = LOGITS.clone().requires_grad_()
    exact = (logits.softmax(-1) * VALUES).sum()
    (slope,) = torch.autograd.grad(exact, logits)
    each, slopes = estimates(count)
    root = math.sqrt(REPEATS)
    monte_carlo.z_test(each.mean(), exact.detach(), each.std() / root)
    monte_carlo.z_test(slopes.mean(0), slope, slopes.std(0) / root)


def test_the_control_variate_takes_a_constant_out() -> None:
    """Catches a baseline left out: the noise would be that of the constant, ten times as much."""
    _, alone = estimates(1)
    _, many = estimates(7)
    assert float(many.std(0).max()) < 0.1 * float(alone.std(0).max()) / math.sqrt(7) * 2
