# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Random products of plates' elements: the ELBO against Monte Carlo, messages against differences.

The oracle of the value is the real model at draws of q; that of the messages is the ELBO itself,
whose derivative along a change of natural parameters is ``<message - natural, d mean_params>``.
"""

import pytest
import torch

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural
from tests.checks import engine, tiers
from tests.oracles import monte_carlo
from tests.random_plates import FAMILIES, PlateModel

DRAWS = 30_000
#: There are some 24 values: one beyond 5 standard errors has a chance of 1.4e-5.
BOUND = 5.0
STEP = 1e-4
SEEDS = range(8, 20)


def _engine(seed: int, blocks: str) -> tuple[PlateModel, BLR, AutoNatural]:
    model = PlateModel(seed)
    blr, guide = engine(model, model.start, blocks=blocks, families=FAMILIES, on_sampled="ignore")
    if "sampled" in tiers(blr).values():
        pytest.skip("a factor of more than two scalars")
    return model, blr, guide


@pytest.mark.parametrize("blocks", ["site", "auto"])
@pytest.mark.parametrize("seed", SEEDS)
def test_value_is_that_of_the_real_model(seed: int, blocks: str) -> None:
    model, blr, guide = _engine(seed, blocks)
    entropy = sum(b.family.entropy(n).sum().item() for b, n in guide.naturals().items())
    found = -blr.evaluate_loss() - entropy
    draw = guide.sample_posterior  # rows with one covariance, and joint laws, are no start's
    estimate = monte_carlo.expected_log_joint(model, (), draw, DRAWS, seed)
    monte_carlo.z_test(found, estimate.value, estimate.standard_error, BOUND)


@pytest.mark.parametrize("seed", SEEDS)
def test_messages_are_derivatives_of_the_elbo(seed: int) -> None:
    _, blr, guide = _engine(seed, "auto")
    messages = blr.messages()
    generator = torch.Generator().manual_seed(seed)
    start = {b: tuple(t.detach().clone() for t in n) for b, n in guide.naturals().items()}
    for block, natural in start.items():
        # Along a matrix parameter the direction is the matrix itself, which stays in the domain.
        direction = [
            n * (1.0 if dims == 2 else torch.randn(n.shape, generator=generator))
            for n, dims in zip(natural, block.family.natural_event_dims, strict=True)
        ]
        values, means = [], []
        for sign in (-1, 1):
            moved = tuple(n + sign * STEP * d for n, d in zip(natural, direction, strict=True))
            guide.write({block: moved})
            values.append(-blr.evaluate_loss())
            means.append(block.family.mean_params(moved))
        guide.write({block: natural})
        expected = sum(
            ((message - n) * (after - before)).sum()
            for message, n, before, after in zip(messages[block.name], natural, *means, strict=True)
        )
        change = torch.tensor(values[1] - values[0])
        torch.testing.assert_close(change, expected, rtol=2e-5, atol=1e-8)
