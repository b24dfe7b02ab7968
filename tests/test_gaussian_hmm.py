# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""GaussianHMM with random arguments: the bound of the same model whose states are a latent."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.energy.hidden_gaussian import ChainIntegral, gaussian_chain
from pyro_blr.guides import AutoNatural
from pyro_blr.lifting.distribution import LiftedDistribution
from tests import gaussian_hmm_models as models
from tests.checks import engine, tiers
from tests.gaussian_hmm_models import D, E, N, T, randn

Model = Callable[..., Any]

PAIRS: dict[str, tuple[Model, Model, Tensor]] = {
    **{
        p.__name__: (models.one(p, models.hmm), models.one(p, models.states), 2 * randn(7, T, E))
        for p in models.ONE
    },
    **{
        f"{p.__name__}, {name}": (
            models.sequences(p, models.hmm),
            models.sequences(p, models.states),
            2 * randn(8, *shape, E),
        )
        for p in (models.noises, models.matrices, models.everything)
        for name, shape in {"sequences": (N, T), "a step each": (N, 1)}.items()
    },
    "each_step, sequences": (
        models.sequences(models.each_step, models.hmm),
        models.sequences(models.each_step, models.states),
        2 * randn(8, N, T, E),
    ),
    "a step": (
        models.one(models.everything, models.hmm),
        models.one(models.everything, models.states),
        randn(9, 1, E),
    ),
    "of their own": (
        models.of_their_own(models.hmm),
        models.of_their_own(models.states),
        2 * randn(8, N, T, E),
    ),
}
pair = pytest.mark.parametrize(("model", "explicit", "y"), PAIRS.values(), ids=PAIRS)


def with_states(explicit: Model, guide: Any, y: Tensor) -> BLR:
    """The model with states, q of the arguments that of a guide, q of the states at its optimum."""
    known = {b.name: n for b, n in guide.naturals().items()}
    blr, other = engine(explicit, blocks="site", on_sampled="error")
    blr.step(y)
    other.write({b: known[b.name] for b in other.blocks if b.name != "z"})
    (states,) = (b for b in other.blocks if b.name == "z")
    other.write({states: blr.messages(y)["z"]})
    return blr


@pair
@pytest.mark.parametrize("steps", [0, 2])
def test_the_bound_is_that_of_states_at_their_optimum(
    model: Model, explicit: Model, y: Tensor, steps: int
) -> None:
    blr, guide = engine(model, blocks="site", on_sampled="error")
    for _ in range(steps):
        blr.step(y)
    assert tiers(blr, y)["y"] == "exact"
    found, messages = blr.evaluate_loss(y), blr.messages(y)
    other = with_states(explicit, guide, y)
    assert found == pytest.approx(other.evaluate_loss(y), rel=1e-10)
    expected = other.messages(y)
    for name, message in messages.items():  # the gradient of a maximum is the gradient at it
        for own, its in zip(message, expected[name], strict=True):
            torch.testing.assert_close(own, its, rtol=1e-8, atol=1e-8)


@pair
def test_fit_climbs_to_the_optimum_with_states(model: Model, explicit: Model, y: Tensor) -> None:
    blr, guide = engine(model, blocks="site", on_sampled="error")
    losses = [blr.step(y) for _ in range(12)]
    assert max(b - a for a, b in pairwise(losses)) < 1e-9
    fit = blr.fit(y)
    assert fit.converged, fit.reason
    found = blr.evaluate_loss(y)
    other = with_states(explicit, guide, y)
    assert other.fit(y).converged
    assert other.evaluate_loss(y) == pytest.approx(found, abs=1e-5)


@pair
def test_blocks_by_themselves_are_as_good_as_sites(model: Model, explicit: Model, y: Tensor) -> None:
    apart, _ = engine(model, blocks="site", on_sampled="error")
    apart.fit(y)
    highest = -apart.evaluate_loss(y)
    blr, guide = engine(model, on_sampled="error")
    losses = [blr.step(y) for _ in range(8)]
    assert max(b - a for a, b in pairwise(losses)) < 1e-9
    fit = blr.fit(y)
    print(guide.blocks, fit.reason, -blr.evaluate_loss(y), highest)
    assert fit.converged, fit.reason
    assert -blr.evaluate_loss(y) > highest - 1e-5
