# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The k-hat of a site is that of q(site | others): exact where q is, high where q is narrow."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoLowRankMultivariateNormal, AutoMultivariateNormal

from pyro_blr import BLR, errors
from pyro_blr.diagnostics import site_khat
from pyro_blr.guides import AutoNatural, AutoNaturalMultivariateNormal, AutoNaturalNormal
from tests.diagnostics.models import fitted, narrow


def coupled(y):
    """A posterior that is Gaussian on the unconstrained space, of three latents of three kinds."""
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    v = pyro.sample("v", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    s = pyro.sample("s", dist.LogNormal(0.0, 1.0))
    pyro.sample("y", dist.Normal(a + v.sum() + 0.5 * s.log(), 0.3), obs=y)


def in_plates(y):
    """Blocks with batch dims: two latents in each row."""
    with pyro.plate("rows", 3):
        a = pyro.sample("a", dist.Normal(0.0, 1.0))
        b = pyro.sample("b", dist.Normal(a, 1.0))
        pyro.sample("y", dist.Normal(a + b, 0.3), obs=y)


Y = torch.tensor(1.3)


def by_site(fit, *args, **options):
    return {k.sites: k for k in site_khat(fit, *args, **options)}


@pytest.mark.parametrize(
    "model, y", [(coupled, Y), (in_plates, torch.tensor([1.0, -0.5, 2.0]))], ids=["dense", "plates"]
)
def test_conditional_laws_of_an_exact_joint_guide_are_exact(model, y):
    found = by_site(fitted(model, y, guide=AutoNaturalMultivariateNormal), y)
    sites = {("a",), ("v",), ("s",)} if model is coupled else {("a",), ("b",)}
    assert set(found) == sites
    assert all(k.is_exact and k.khat == -math.inf and k.divergence < 1e-10 for k in found.values())


@pytest.mark.parametrize("guide", [AutoMultivariateNormal, AutoLowRankMultivariateNormal])
def test_pyros_joint_guides_are_seen(guide):
    own = guide(coupled)
    BLR(coupled, own, on_sampled="ignore").fit(Y)
    svi = SVI(coupled, own, pyro.optim.Adam({}), Trace_ELBO())
    found = by_site(svi, Y)
    if guide is AutoMultivariateNormal:
        assert set(found) == {("a",), ("v",), ("s",)}
        assert all(k.divergence < 1e-4 for k in found.values())
    else:
        assert {n for sites in found for n in sites} == {"a", "v", "s"}


@pytest.mark.parametrize("site", ["a", "v", "s"])
def test_a_conditional_law_that_is_made_narrow_is_found(site):
    fit = fitted(coupled, Y, guide=AutoNaturalMultivariateNormal)
    view = fit.blr.view
    ((block, (first, second)),) = view.naturals().items()
    mean = torch.linalg.solve(-2 * second, first)
    own = block.event_slice(view.latents[site].site)
    precision = (-2 * second).clone()
    precision[own, own] *= 9  # the conditional law of the site; those of the others stay
    view.write({block: (precision @ mean, -precision / 2)})
    found = by_site(fit, Y)
    worst = max(found.values(), key=lambda k: k.khat)
    assert worst.sites == (site,) and worst.khat > 0.6 and worst.divergence > 0.15
    assert all(k.is_exact for sites, k in found.items() if sites != (site,))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("site", ["a", "v", "s"])
def test_a_mean_field_site_that_is_made_narrow_is_found(site, seed):
    pyro.set_rng_seed(seed)
    fit = narrow(fitted(coupled, Y, blocks="site"), sites=[site])
    found = site_khat(fit, Y)
    worst = max(found, key=lambda k: k.khat)
    assert worst.sites == (site,) and found[0].sites == (site,)
    assert worst.khat > 0.6 and all(k.khat < 0.5 for k in found if k is not worst)


def test_the_best_mean_field_guide_of_a_gaussian_is_right_site_by_site():
    found = site_khat(fitted(coupled, Y, blocks="site"), Y)
    assert all(k.khat < 0.5 for k in found)
    assert {k.sites for k in found} == {("a",), ("v",), ("s",)}


def test_dependence_within_a_site_is_the_sites():
    # The elements of v are independent under this guide, and not in the posterior.
    found = by_site(fitted(coupled, Y, guide=AutoNaturalNormal), Y)
    assert found["v",].khat > 0.6 and found["v",].divergence > 0.2
    assert found["a",].khat < 0.5 and found["s",].khat < 0.5


def test_a_joint_law_that_is_no_gaussian_is_one():
    def model(y):
        tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
        mu = pyro.sample("mu", dist.Normal(0.0, (0.1 * tau).rsqrt()))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=y)

    y = torch.linspace(0.0, 2.0, 10)
    (found,) = site_khat(fitted(model, y), y)
    assert set(found.sites) == {"mu", "tau"} and found.is_exact


def test_few_draws_are_enough_to_run():
    assert len(site_khat(fitted(coupled, Y), Y, num_samples=100)) >= 1


def test_a_temperature_is_that_of_the_target():
    fit = fitted(coupled, Y, guide=AutoNaturalMultivariateNormal, temperature=2.0)
    assert all(k.is_exact for k in site_khat(fit, Y))


def test_too_few_draws():
    with pytest.raises(errors.ArgumentError, match="Mend: take more draws"):
        site_khat(fitted(coupled, Y), Y, num_samples=10)


def test_a_guide_that_has_not_run():
    with pytest.raises(errors.GuideError, match=r"Mend: call blr\.fit"):
        site_khat(BLR(coupled, AutoNatural(coupled)), Y)
