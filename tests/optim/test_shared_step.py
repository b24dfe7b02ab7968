# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The optimiser's step is the core's: the retraction of a DiagonalNormal towards its message."""

import math

import pytest
import torch
from torch import nn

from pyro_blr.families import DiagonalNormal, MultivariateNormal, Natural, Normal
from pyro_blr.optim import IVON
from pyro_blr.steps.cone import has_retraction, retract
from pyro_blr.steps.diagonal import retraction

RHO, ESS, DECAY = 0.1, 50.0, 0.2


def loss(w: torch.Tensor) -> torch.Tensor:
    return (w.sin() + 0.3 * w.square() + w.prod()).sum()


def test_a_step_of_ivon_is_the_retraction_of_a_diagonal_normal() -> None:
    """Without momentum, at ``lr = 1 - b2``; the message is Bonnet's and Price's of the draw."""
    w = nn.Parameter(torch.tensor([0.5, -1.0, 2.0]))
    optimizer = IVON(
        [w], lr=RHO, ess=ESS, hessian_init=0.4, betas=(0.0, 1 - RHO), weight_decay=DECAY,
        rescale_lr=False, seed=1,
    )  # fmt: skip
    mean = w.detach().clone()
    precision = torch.full((3,), ESS * (0.4 + DECAY))
    with optimizer.sampled_params():
        away = w.detach() - mean
        loss(w).backward()
    assert w.grad is not None
    gradient = -ESS * (w.grad + DECAY * mean)
    hessian = ESS * (w.grad * away * precision + DECAY)
    optimizer.step()

    message: Natural = (gradient + hessian * mean, -0.5 * hessian)
    assert ((hessian / precision - 1) * RHO + 1).abs().max() < 2  # where both are quadratic
    natural = precision * mean, -0.5 * precision
    new = retract(DiagonalNormal(), natural, message, RHO)
    torch.testing.assert_close(-2 * new[1], ESS * (optimizer.state[w]["hessian"] + DECAY))
    torch.testing.assert_close(new[0] / (-2 * new[1]), w.detach())


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_the_retraction_of_a_diagonal_is_that_of_its_matrix(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    precision = 0.1 + torch.rand(2, 3, generator=generator)
    hessian = size * torch.randn(2, 3, generator=generator)
    first, second = torch.randn(2, 2, 3, generator=generator)
    natural, message = (first, -0.5 * precision), (second, -0.5 * hessian)
    full = retract(
        MultivariateNormal(),
        (first, torch.diag_embed(natural[1])),
        (second, torch.diag_embed(message[1])),
        0.4,
    )
    for family in (Normal(), DiagonalNormal()):
        assert has_retraction(family)
        new = retract(family, natural, message, 0.4)
        torch.testing.assert_close(new[0], full[0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(new[1], full[1].diagonal(dim1=-1, dim2=-2), rtol=1e-10, atol=0)


@pytest.mark.parametrize("linear", [2.0, math.inf])
def test_half_of_a_precision_is_the_most_that_a_step_takes(linear: float) -> None:
    precision = torch.tensor([1e-6, 1.0, 1e6]).repeat_interleave(2001)
    gap = torch.linspace(-50.0, 50.0, 2001).repeat(3) * precision
    new = precision + retraction([gap], [precision], 0.3, linear)[0]
    assert float((new / precision).min()) == pytest.approx(0.5, rel=1e-3)


def test_a_short_step_keeps_its_digits() -> None:
    """In float32 ``(1 + x^2) / 2 - 1`` of ``x = 1 - 1e-6`` would keep one digit."""
    precision = torch.ones(5, dtype=torch.float32)
    gap = torch.linspace(0.1, 0.9, 5, dtype=torch.float32)
    change = retraction([gap], [precision], 1e-6)[0]
    torch.testing.assert_close(change, -1e-6 * gap, rtol=2e-6, atol=0)
