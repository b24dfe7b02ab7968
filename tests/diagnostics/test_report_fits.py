# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The report of every kind of fit: by BLR and by SVI, of guides that are written by hand."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoIAFNormal, AutoMultivariateNormal, AutoNormal

from pyro_blr import BLR
from pyro_blr.diagnostics import report
from pyro_blr.guides import AutoNatural
from tests.diagnostics.models import fitted, mixture, scaled, svi, wave


@pytest.mark.parametrize("guide", [AutoNormal, AutoMultivariateNormal, AutoIAFNormal])
def test_fits_by_svi(guide):
    args = wave(scaled)
    found = report(svi(scaled, guide(scaled), args), *args, num_samples=1000)
    assert {s.name for s in found.sites} == {"w", "b", "s"}
    assert found.fit is None and any("not known" in line for line in found.advice)
    apart = 1 if guide is AutoIAFNormal else 3
    assert len(found.site_khats) == apart


def test_a_mean_field_guide_by_hand_of_no_family():
    def guide(X, y):
        w = pyro.param("w_loc", torch.zeros(3))
        pyro.sample("w", dist.StudentT(10.0, w, 0.3).to_event(1))
        pyro.sample("b", dist.StudentT(10.0, pyro.param("b_loc", torch.tensor(0.0)), 0.3))
        pyro.sample("s", dist.LogNormal(pyro.param("s_loc", torch.tensor(0.0)), 0.3))

    args = wave(scaled)
    found = report(svi(scaled, guide, args), *args, num_samples=1000)
    assert {k.sites for k in found.site_khats} == {("w",), ("b",), ("s",)}


def test_a_structured_guide_has_no_khat_of_a_site():
    def guide(X, y):
        s = pyro.sample("s", dist.LogNormal(pyro.param("s_loc", torch.tensor(0.0)), 0.3))
        pyro.sample("w", dist.Normal(torch.zeros(3), s).to_event(1))
        pyro.sample("b", dist.Normal(pyro.param("b_loc", torch.tensor(0.0)), 0.3))

    args = wave(scaled)
    found = report(svi(scaled, guide, args, 5), *args, num_samples=1000)
    assert found.site_khats == () and all(math.isnan(s.khat) for s in found.sites)
    assert any("q(site | others) is not known" in line for line in found.advice)


def test_discrete_latents_are_summed_out():
    y = torch.cat([torch.linspace(-3.0, -1.0, 30), torch.linspace(1.0, 3.0, 20)])
    found = report(fitted(mixture, y), y)
    assert {s.name for s in found.sites} == {"share", "mu"}
    assert found.khat < 0.7


def test_a_model_that_cannot_be_run_at_many_draws_together():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z if float(z) > 0 else -z, 1.0), obs=y)

    y = torch.tensor(1.0)
    found = report(svi(model, AutoNormal(model), (y,), 20), y, num_samples=200)
    assert [s.name for s in found.sites] == ["z"]


def test_a_run_that_has_not_converged_is_told():
    args = wave(scaled)
    fit = BLR(scaled, AutoNatural(scaled), on_sampled="ignore").fit(*args, max_steps=1)
    assert any("has not converged" in line for line in report(fit, *args).advice)


def test_it_leaves_the_fit_as_it_was():
    args = wave(scaled)
    fit = fitted(scaled, *args)
    before = {b: tuple(t.clone() for t in n) for b, n in fit.blr.view.naturals().items()}
    report(fit, *args, num_samples=500)
    for block, natural in fit.blr.view.naturals().items():
        assert all(torch.equal(a, b) for a, b in zip(natural, before[block], strict=True))
