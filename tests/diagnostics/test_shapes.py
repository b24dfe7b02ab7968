# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Guides by hand that leave out a part of the latents' support, or have another shape."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pyro_blr import errors
from pyro_blr.diagnostics import report
from pyro_blr.diagnostics.supports import narrower_supports
from pyro_blr.draws.fitted import fitted as fitted_by


def normal():
    pyro.sample("z", dist.Normal(0.0, 1.0))


def by_hand(model, law, name="z"):
    return SVI(model, lambda: pyro.sample(name, law), pyro.optim.Adam({}), Trace_ELBO())


@pytest.mark.parametrize(
    "law", [dist.HalfNormal(1.0), dist.Uniform(-0.3, 0.3), dist.Uniform(-1.0, 1.0)]
)
def test_a_guide_that_cannot_reach_all_values_is_not_good_however_even_its_weights(law):
    found = report(by_hand(normal, law), num_samples=1000)
    assert found.verdict.startswith("do not trust: in site z the guide's")
    assert type(law).__name__ in found.verdict and "Normal" in found.verdict
    assert any("own support" in line for line in found.advice)


def positive():
    pyro.sample("z", dist.Exponential(1.0))


def share():
    pyro.sample("z", dist.Beta(2.0, 2.0))


@pytest.mark.parametrize(
    ("model", "law", "reaches"),
    [
        (positive, dist.Gamma(1.0, 1.0), True),
        (positive, dist.LogNormal(-0.6, 1.1), True),
        (positive, dist.Uniform(0.0, 1.0), False),
        (positive, dist.Normal(0.0, 1.0).expand([]), None),
        (share, dist.Uniform(0.0, 1.0), True),
        (share, dist.Uniform(0.1, 0.9), False),
        (normal, dist.StudentT(4.0, 0.0, 1.0), True),
    ],
)
def test_a_guide_of_another_family_reaches_what_its_support_holds(model, law, reaches):
    if reaches is None:  # a guide with draws that the model cannot have says so by itself
        with pytest.raises(errors.NonFiniteError, match="support"):
            report(by_hand(model, law), num_samples=200)
        return
    found = report(by_hand(model, law), num_samples=1000)
    assert ("leaves out values" in found.verdict) == (not reaches)


def test_support_is_looked_at_without_moving_the_generator_of_random_numbers():
    pyro.set_rng_seed(0)
    expected = torch.rand(())
    pyro.set_rng_seed(0)
    own = fitted_by(by_hand(normal, dist.Uniform(-1.0, 1.0)), "report")
    assert set(narrower_supports(own, (), {})) == {"z"}
    assert torch.rand(()) == expected


def two_peaks():
    z = pyro.sample("z", dist.Normal(0.0, 3.0))
    pyro.sample("y", dist.Normal(z**2, 0.5), obs=torch.tensor(4.0))


def test_right_means_and_sds_of_another_shape_are_not_good():
    pyro.set_rng_seed(0)
    found = report(by_hand(two_peaks, dist.Normal(0.0, 2.0)))
    assert not (found["z"].is_narrow or found["z"].is_wide or found["z"].is_shifted)
    assert found.verdict.startswith("off in the shape of site z (")
    # A law with heavier tails is no such shape, though its weights are not constant.
    near = report(by_hand(normal, dist.Laplace(0.0, 0.7)))
    assert near.verdict.startswith("good")


def test_many_elements_that_are_each_nearly_right_are_not_of_another_shape():
    def many():
        with pyro.plate("d", 50):
            pyro.sample("z", dist.Normal(0.0, 1.0))

    def guide():
        with pyro.plate("d", 50):
            pyro.sample("z", dist.Normal(0.0, 0.95))

    pyro.set_rng_seed(0)
    found = report(SVI(many, guide, pyro.optim.Adam({}), Trace_ELBO()))
    assert found.weighed.divergence > 0.1 and found.verdict.startswith("good")
