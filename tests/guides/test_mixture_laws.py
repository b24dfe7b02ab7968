# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A latent whose own law is a mixture: torch has transforms to the support of its components."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive

from pyro_blr import BLR, errors
from pyro_blr.families.normal_mixture import NormalMixture
from pyro_blr.guides import AutoNatural, AutoNaturalMixture

SHARES = torch.tensor([0.3, 0.7]).double()
MEANS = torch.stack([torch.full((3,), -3.0), torch.full((3,), 2.0)]).double()
LAWS = {
    "multivariate": dist.MultivariateNormal(MEANS, torch.eye(3).double()),
    "independent": dist.Normal(MEANS, 1.0).to_event(1),
    "on an interval": dist.Beta(torch.tensor([4.0, 20.0]).double(), 12.0),
    "positive": dist.Gamma(torch.tensor([4.0, 60.0]).double(), 6.0),
    "on a simplex": dist.Dirichlet(torch.tensor([[4.0, 9.0, 9.0], [30.0, 20.0, 4.0]]).double()),
}


def _of(components):
    law = dist.MixtureSameFamily(dist.Categorical(SHARES), components)
    return lambda: pyro.sample("z", law)


@pytest.mark.parametrize("name", LAWS)
def test_a_mixture_of_gaussians_is_near_a_mixture(name: str) -> None:
    """The evidence is 1, so that -ELBO is the divergence."""
    pyro.set_rng_seed(0)
    model = _of(LAWS[name])
    guide = AutoNaturalMixture(model, components=3)
    blr = BLR(model, guide, on_sampled="ignore")
    blr.fit(max_steps=25)
    assert blr.evaluate_loss() < 0.03
    draws = Predictive(model, guide=guide, num_samples=5)()["z"]
    assert draws.shape == (5, *LAWS[name].event_shape)


@pytest.mark.parametrize("name", LAWS)
def test_one_gaussian_lies_below_the_evidence(name: str) -> None:
    model = _of(LAWS[name])
    blr = BLR(model, AutoNatural(model), on_sampled="ignore")
    blr.fit(max_steps=25)
    assert 0 < blr.evaluate_loss() < 2


def test_independent_elements_that_are_mixtures() -> None:
    pairs = dist.Gamma(torch.tensor([[4.0, 60.0], [9.0, 80.0]]).double(), 6.0)
    law = dist.MixtureSameFamily(dist.Categorical(SHARES.expand(2, 2)), pairs).to_event(1)

    def model():
        pyro.sample("z", law)

    blr = BLR(model, AutoNatural(model), on_sampled="ignore")
    blr.fit(max_steps=25)
    assert (blr.guide()["z"] > 0).all()


def test_angles_are_refused_in_a_mixture_too() -> None:
    model = _of(dist.VonMises(torch.tensor([0.0, 1.0]), 1.0))
    with pytest.raises(errors.GuideError, match=r"angle.*Mend"):
        BLR(model, AutoNatural(model)).step()


def test_the_family_has_no_natural_parameters_and_says_so() -> None:
    family = NormalMixture()
    point = torch.zeros(1), torch.zeros(1, 2), torch.eye(2).unsqueeze(0)
    asked = (
        lambda: family.log_partition(point),
        lambda: family.mean_params(point),
        lambda: family.natural(point),
        lambda: family.sufficient_statistics(torch.zeros(2)),
        lambda: family.inverse_fisher(point, point),
    )
    for ask in asked:
        with pytest.raises(errors.DomainError, match=r"NormalMixture is no exponential.*Mend"):
            ask()
    table = family._repr_html_()
    assert "coordinates" in table and "Exponential family" not in table
