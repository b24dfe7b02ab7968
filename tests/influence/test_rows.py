# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The message of each datum: what the messages lose when the datum is masked."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from tests.checks import engine, with_masked_observations
from tests.influence.models import MODELS, Example
from tests.oracles.textbook import ALL, Case

every_case = pytest.mark.parametrize("case", ALL, ids=lambda case: case.name)
every_model = pytest.mark.parametrize("example", MODELS, ids=lambda example: example.__name__)


def brute_force(blr: Any, model: Any, call: Any, n: tuple[int, ...], shape: Any) -> Any:
    """Messages with all data less messages without one, at the same q."""
    keep = torch.ones(shape, dtype=torch.bool)
    keep[n] = False
    other, _ = engine(with_masked_observations(model, keep), blocks=blr.blocks)
    other.view, other._is_laid_out = blr.view, True
    everything, without = blr.messages(*call), other.messages(*call)
    return {
        b: tuple(x - y for x, y in zip(m, without[b], strict=True)) for b, m in everything.items()
    }


def agree(found: Any, expected: Any, sums: Any, tolerance: float = 1e-9) -> None:
    """Equal to a small share of the sum of all messages, from which the expected was subtracted."""
    for name, message in expected.items():
        for mine, other, size in zip(found[name], message, sums[name], strict=True):
            assert mine.shape == other.shape
            assert (mine - other).abs().max() <= tolerance * (1e-3 + size.abs().max())


@every_case
def test_conjugate_messages_are_what_a_mask_takes_away(case: Case) -> None:
    problem = case.make(seed=1)
    blr, _ = engine(problem.model)
    blr.step(*problem.args)
    data = blr.influence(*problem.args)
    sums = blr.messages(*problem.args)
    messages = data.messages
    for n in (0, len(data) // 2, len(data) - 1):
        index = data.position(n)
        found = {name: tuple(t[n] for t in m) for name, m in messages.items()}
        agree(found, brute_force(blr, problem.model, problem.args, index, data.shape), sums)


@every_model
def test_messages_are_what_a_mask_takes_away(example: Example) -> None:
    """Quadrature over one or two scalars, exponentials, coupled blocks, several plates."""
    model, args = example()
    blr, _ = engine(model)
    blr.fit(*args)
    data = blr.influence(*args)
    sums = blr.messages(*args)
    for n in (0, len(data) // 2, len(data) - 1):
        found = {name: tuple(t[n] for t in m) for name, m in data.messages.items()}
        expected = brute_force(blr, model, args, data.position(n), data.shape)
        agree(found, expected, sums, 1e-7)


@every_case
def test_messages_of_data_and_of_the_prior_add_up(case: Case) -> None:
    problem = case.make(seed=2)
    blr, _ = engine(problem.model)
    blr.step(*problem.args)
    data = blr.influence(*problem.args)
    prior = blr.messages(*problem.args, mask=False)
    for name, total in blr.messages(*problem.args).items():
        for of_data, of_prior, m in zip(data.messages[name], prior[name], total, strict=True):
            difference = of_data.sum(0) + of_prior - m
            assert difference.abs().max() <= 1e-11 * m.abs().max()


def test_scales_and_masks_count() -> None:
    X = torch.randn(12, 2)
    y = torch.randn(12)
    mask = torch.arange(12) != 4
    weight = torch.linspace(0.5, 2.0, 12)

    def model(X: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        with pyro.plate("data", 12), poutine.mask(mask=mask), poutine.scale(scale=weight):
            pyro.sample("y", dist.Normal(X @ w, 0.5), obs=y)

    blr, _ = engine(model)
    blr.step(X, y)
    first, second = blr.influence(X, y).messages["w"]
    expected = (mask * weight / 0.25).unsqueeze(-1) * X
    assert torch.allclose(first, expected * y.unsqueeze(-1), atol=1e-12)
    outer = expected.unsqueeze(-1) * X.unsqueeze(-2)
    assert torch.allclose(second, -0.5 * outer, atol=1e-12)
