# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A short run of NUTS agrees with exact guides, and not with narrow ones."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import init_to_value

from pyro_blr import BLR, errors
from pyro_blr.diagnostics import against_nuts
from pyro_blr.guides import AutoNatural
from tests.diagnostics.models import CONJUGATE, fitted, narrow

MODEL, DATA = CONJUGATE["normal_mean"]


def test_an_exact_guide_agrees():
    model, data = CONJUGATE["regression"]
    found = against_nuts(fitted(model, *data()), *data())
    assert found.verdict.startswith("agrees with NUTS") and found.has_mixed
    for site in found.sites:
        assert abs(site.shift) < 5 * site.shift_error
        assert abs(math.log(site.ratio)) < 5 * site.ratio_error
    assert set(found.effective_draws) == {"tau", "w"} and min(found.effective_draws.values()) > 20
    assert "verdict: agrees" in str(found)


def test_a_narrow_guide_does_not():
    found = against_nuts(narrow(fitted(MODEL, *DATA())), *DATA())
    assert "too narrow in site z" in found.verdict
    assert found["z"].ratio == pytest.approx(3.0, rel=0.3)


def test_its_monte_carlo_errors_are_right():
    scores = []
    fit = fitted(MODEL, *DATA())
    for seed in range(6):
        pyro.set_rng_seed(seed)
        site = against_nuts(fit, *DATA(), num_samples=100, warmup_steps=60)["z"]
        scores += [
            site.shift / site.shift_error,
            math.log(site.ratio) * site.ratio / site.ratio_error,
        ]
    spread = (sum(s * s for s in scores) / len(scores)) ** 0.5
    assert 0.4 < spread < 2.0


def test_discrete_latents_are_summed_out():
    def mixture(y):
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Bernoulli(share))
            pyro.sample("y", dist.Normal(4 * z, 1.0), obs=y)

    y = torch.cat([torch.linspace(-1.0, 1.0, 8), torch.linspace(3.0, 5.0, 4)])
    found = against_nuts(fitted(mixture, y), y, num_samples=100, warmup_steps=50)
    assert [s.name for s in found.sites] == ["share"]


def test_a_chain_that_has_not_mixed_is_no_reference():
    def modes(y):
        z = pyro.sample("z", dist.Normal(0.0, 10.0))
        pyro.sample("y", dist.Normal((z * z - 25).abs(), 0.5), obs=y)

    y = torch.tensor(0.0)
    found = against_nuts(fitted(modes, y), y, num_samples=60, warmup_steps=20)
    verdict = found.verdict
    if found.has_mixed:  # all have come to q's mode
        assert "no reference" not in verdict and "disagree" not in verdict
    else:
        assert verdict.startswith(("no reference", "not decided: chains disagree"))


def lesser_mode(y):
    z = pyro.sample("z", dist.Normal(-2.0, 1.0))
    pyro.sample("y", dist.Normal(z**2, 0.5), obs=y)


def test_chains_that_disagree_decide_nothing():
    y = torch.tensor(4.0)
    start = init_to_value(values={"z": torch.tensor(2.0)})
    guide = AutoNatural(lesser_mode, init_loc_fn=start)
    fit = BLR(lesser_mode, guide, on_sampled="ignore").fit(y)
    found = against_nuts(fit, y, num_samples=160, warmup_steps=60)
    assert found.num_chains == 4 and not found.has_mixed
    assert found.verdict.startswith("not decided: chains disagree")
    alone = against_nuts(fit, y, num_samples=100, warmup_steps=60, num_chains=1)
    assert "disagree" not in alone.verdict


def test_discrete_latents_that_q_holds_are_summed_out():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("y", dist.Normal(mu + 10 * z, 1.0), obs=y)

    y = torch.tensor([0.0, 10.0, 10.2, -0.1])
    fit = fitted(model, y, discrete="factorised")
    found = against_nuts(fit, y, num_samples=80, warmup_steps=30)
    assert [s.name for s in found.sites] == ["mu"]


def test_an_improper_prior_is_refused():
    def model(y):
        z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real, (), ()))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    with pytest.raises(errors.ArgumentError, match=r"improper prior.*Mend"):
        against_nuts(fitted(model, *DATA()), *DATA())


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool])
def test_labels_of_any_dtype(dtype):
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Bernoulli(logits=z), obs=y)

    y = torch.tensor([1, 0, 1]).to(dtype)
    found = against_nuts(fitted(model, y), y, num_samples=40, warmup_steps=20, num_chains=1)
    assert found["z"].moments.target_mean.abs() < 2


def test_a_subsample_of_a_plate_is_refused():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 3.0))
        with pyro.plate("data", len(y), subsample_size=2) as rows:
            pyro.sample("y", dist.Normal(z, 1.0), obs=y[rows])

    (y,) = DATA()
    blr = BLR(model, AutoNatural(model))
    blr.step(y)
    with pytest.raises(errors.PlateSizeError, match=r"'data', which takes 2 of .*Mend"):
        against_nuts(blr, y)


def test_discrete_latents_alone():
    def model(y):
        z = pyro.sample("z", dist.Bernoulli(0.3))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    y = torch.tensor(0.4)
    with pytest.raises(errors.GuideError, match=r"discrete.*Mend: diagnostics\.report"):
        against_nuts(fitted(model, y, discrete="factorised"), y)


def test_calls_that_the_model_does_not_take():
    fit = fitted(MODEL, *DATA())
    with pytest.raises(errors.ArgumentError, match=r"missing.*Mend: against_nuts\(fit, y\)"):
        against_nuts(fit)
    with pytest.raises(errors.ArgumentError, match="'bogus'"):
        against_nuts(fit, *DATA(), bogus=1)
    with pytest.raises(errors.NonFiniteError, match=r"argument 1.*Mend"):
        against_nuts(fit, math.nan * DATA()[0])


@pytest.mark.parametrize("options", [{"num_samples": 5}, {"warmup_steps": 0}, {"num_samples": 1.5}])
def test_too_short(options):
    with pytest.raises(errors.ArgumentError, match="Mend: against_nuts"):
        against_nuts(fitted(MODEL, *DATA()), *DATA(), **options)


@pytest.mark.parametrize("sd", [0.3, 1e-6])
def test_latents_at_their_prior_are_not_drawn_anew_at_each_gradient(sd):
    """Of a log density with noise paths have no end; what counts is the joint posterior."""

    def model(y):
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        v = pyro.sample("v", dist.Normal(u, sd))
        cov = sd**2 * torch.tensor([[1.0, 0.3], [0.3, 1.0]])
        f = pyro.sample("f", dist.MultivariateNormal(v.expand(2), cov))
        with pyro.plate("n", 2):
            pyro.sample("y", dist.Normal(f, 0.3), obs=y)

    y = torch.tensor([0.8, 1.2])
    guide = AutoNatural(model, at_prior=["v", "f"])
    blr = BLR(model, guide, on_sampled="ignore")
    blr.fit(y)
    found = against_nuts(blr, y, num_samples=25, warmup_steps=40, num_chains=1)
    assert set(found.effective_draws) == {"u"}
    # Of the model itself: y ~ N(u, noise), of which the means are a sufficient statistic.
    noise = sd**2 + (sd**2 * 1.3 + 0.09) / 2
    mean = 1.0 / (1 + noise)
    site = found["u"].moments
    assert float(site.target_mean - mean) == pytest.approx(0.0, abs=5 * math.sqrt(noise / 10))
    assert float(site.target_sd) == pytest.approx(math.sqrt(noise / (1 + noise)), rel=0.5)
