# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A five-armed star by ten components, from a start that knows nothing of it."""

from functools import partial

import pyro
import pytest

from pyro_blr import BLR
from pyro_blr.guides import AutoNaturalMixture

from .mixture_targets import ALONG, ARMS, CENTRES, grid_kl, model_of, star

SKEWED = partial(star, skew=3.0)


def arms_found(q) -> int:
    """How many arms have some component's mean of noticeable weight along them."""
    components, weights = q.component_distribution, q.mixture_distribution.probs
    away = components.loc.unsqueeze(1) - CENTRES
    # Along an arm a mean is within two standard deviations of its centre, across within one tenth.
    x = (away * ALONG).sum(-1)
    y = (away - x.unsqueeze(-1) * ALONG).norm(dim=-1)
    near = (x.abs() < 2) & (y < 0.2) & (weights > 0.01).unsqueeze(-1)
    return int(near.any(0).sum())


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.RemovedComponentWarning")
@pytest.mark.parametrize("seed", range(5))
def test_a_star_by_ten_components(seed: int) -> None:
    pyro.set_rng_seed(seed)
    guide = AutoNaturalMixture(model_of(star), components=10)
    BLR(model_of(star), guide).fit(tol=0.03)
    assert arms_found(guide.get_posterior()) >= 4
    assert grid_kl(guide.get_posterior(), star) < 0.05


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.RemovedComponentWarning")
@pytest.mark.parametrize("seed", [0])
def test_arms_that_are_skewed(seed: int) -> None:
    pyro.set_rng_seed(seed)
    model = model_of(SKEWED)
    guide = AutoNaturalMixture(model, components=10)
    BLR(model, guide).fit(max_steps=20)
    assert arms_found(guide.get_posterior()) == ARMS
    assert grid_kl(guide.get_posterior(), SKEWED) < 0.05


def test_one_gaussian_is_far_from_it() -> None:
    pyro.set_rng_seed(0)
    model = model_of(star)
    guide = AutoNaturalMixture(model, components=1)
    BLR(model, guide, on_sampled="ignore").fit(max_steps=20)
    assert grid_kl(guide.get_posterior(), star) > 0.5


def test_the_gap_that_is_certified_is_that_of_the_divergence() -> None:
    """log Z is 0, so -ELBO is the divergence, here by its points and by a grid."""
    pyro.set_rng_seed(2)
    model = model_of(star)
    guide = AutoNaturalMixture(model, components=10)
    blr = BLR(model, guide)
    fit = blr.fit()
    assert fit.converged and fit.gap <= 0.01, fit
    exact = grid_kl(guide.get_posterior(), star)
    assert abs(blr.evaluate_loss() - exact) < 0.01
    assert exact < 0.02
