# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The bound of discrete latents that are summed out is the sum over each of their joint values."""

import pytest
import torch

from tests.checks import engine, tiers
from tests.discrete.models import SMALL, Small
from tests.discrete.sums import bound_by_hand, random_start

small_model = pytest.mark.parametrize("small", SMALL.values(), ids=SMALL)


@small_model
def test_the_bound_is_the_sum_over_all_assignments(small: Small) -> None:
    q = random_start(small.model, small.args)
    expected, marginals = bound_by_hand(small, q)
    blr, _ = engine(small.model, q, blocks="site", on_sampled="error")
    assert -blr.evaluate_loss(*small.args) == pytest.approx(expected, rel=1e-10)
    found = blr.discrete_marginals(*small.args)
    assert set(found) == set(small.discrete)
    for name, probs in marginals.items():
        law = found[name]
        assert law.batch_shape == small.discrete[name][0]
        own = (
            law.probs
            if law.probs.shape == probs.shape
            else torch.stack([1 - law.probs, law.probs], -1)
        )
        torch.testing.assert_close(own, probs, rtol=1e-9, atol=1e-11)
    assert set(small.discrete) <= set(tiers(blr, *small.args))


@pytest.mark.parametrize("name", [n for n in SMALL if n not in ("logistic regressions",)])
def test_conjugate_models_stay_so(name: str) -> None:
    """Every part of a sum is exact, and linear in each block's mean parameters."""
    small = SMALL[name]
    blr, _ = engine(small.model, blocks="site", on_sampled="error")
    factors = blr.explain(*small.args).factors
    assert {f.tier for f in factors} == {"exact"}
    assert all(f.conjugate for f in factors)
