# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Draws of guides of every kind: log p and log q are those of closed forms, run in any way."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Trace_ELBO
from pyro.infer import autoguide as auto
from pyro.infer.reparam import LocScaleReparam
from pyro.optim import Adam
from torch.autograd.functional import jacobian
from torch.distributions import biject_to
from torch.testing import assert_close

from pyro_blr import BLR, errors
from pyro_blr.diagnostics import report, site_khat
from pyro_blr.draws import draws_of, together
from pyro_blr.guides import AutoNatural
from tests.draws.models import GUIDES, Y, log_joint, model, written

S = 40


def svi_of(guide, steps=5, loss=None, own=model, args=(Y,)):
    svi = SVI(own, guide, Adam({"lr": 0.01}), loss or Trace_ELBO())
    for _ in range(steps):
        svi.step(*args)
    return svi


@pytest.mark.parametrize("name", GUIDES)
def test_log_p_is_the_log_joint(name):
    draws = draws_of(svi_of(GUIDES[name](model)), (Y,), num_samples=S)
    assert draws.log_p.dtype == torch.float64
    assert_close(draws.log_p, log_joint(draws.latents, Y), rtol=1e-12, atol=1e-12)
    assert {n: tuple(v.shape) for n, v in draws.latents.items()} == {
        **dict.fromkeys(("mu", "tau", "share"), (S,)),
        "w": (S, 3),
        "z": (S, 5),
    }
    assert_close(draws.deterministic["twice"], 2 * draws.latents["z"])


@pytest.mark.parametrize("name", GUIDES)
def test_log_q_is_that_of_the_guide_run_at_the_same_values(name):
    guide = GUIDES[name](model)
    svi = svi_of(guide)
    draws = draws_of(svi, (Y,), num_samples=2000)
    weights = draws.log_weights
    error = float(weights.std()) / math.sqrt(len(weights))
    own = [-Trace_ELBO().loss(model, guide, Y) for _ in range(200)]
    spread = torch.tensor(own).std() / math.sqrt(len(own))
    assert abs(float(weights.mean()) - sum(own) / len(own)) < 5 * (error + float(spread))


def unconstrained(values, at=None):
    """The values of one draw, or of all, on the unconstrained space, one after the other."""
    trace = poutine.trace(model).get_trace(Y)
    parts = []
    for name in ("mu", "tau", "share", "w", "z"):
        inverse = biject_to(trace.nodes[name]["fn"].support).inv
        parts.append(inverse(values[name]).reshape(len(values[name]), -1))
    return torch.cat(parts, -1)


@pytest.mark.parametrize("kind", [auto.AutoMultivariateNormal, auto.AutoDiagonalNormal])
def test_log_q_is_a_numerical_change_of_variables(kind):
    # The density of a simplex is over all of its elements but the last one, in Pyro as elsewhere.
    guide = kind(model)
    draws = draws_of(svi_of(guide), (Y,), num_samples=6)
    law = guide.get_posterior()
    u = unconstrained(draws.latents)
    trace = poutine.trace(model).get_trace(Y)

    def constrained(u):
        sizes = {"mu": 1, "tau": 1, "share": 1, "w": 2, "z": 5}
        parts = dict(zip(sizes, u.split(list(sizes.values())), strict=True))
        values = []
        for name, part in parts.items():
            value = biject_to(trace.nodes[name]["fn"].support)(part if name in "wz" else part[0])
            values.append(value[:2] if name == "w" else value.reshape(-1))
        return torch.cat(values)

    wanted = [
        law.log_prob(u[s]) - torch.linalg.slogdet(jacobian(constrained, u[s])).logabsdet
        for s in range(6)
    ]
    assert_close(draws.log_q, torch.stack(wanted), rtol=1e-9, atol=1e-9)


def test_a_written_guide_has_a_density_for_each_site():
    draws = draws_of(svi_of(written), (Y,), num_samples=S)
    assert list(draws.log_q_parts) == [("mu",), ("tau",), ("share",), ("w",), ("z",)]
    loc, scale = pyro.param("loc").item(), pyro.param("scale").item()
    values = draws.latents
    wanted = dist.Normal(loc, 0.5).log_prob(values["mu"])
    assert_close(draws.log_q_parts["mu",], wanted)
    assert_close(draws.log_q_parts["tau",], dist.LogNormal(0.1, scale).log_prob(values["tau"]))
    q_of_z = dist.Normal(0.5 * values["mu"].unsqueeze(-1), 0.7).log_prob(values["z"]).sum(-1)
    assert_close(draws.log_q_parts["z",], q_of_z)


@pytest.mark.parametrize("name", ["AutoNormal", "AutoMultivariateNormal", "written"])
def test_a_view_in_natural_coordinates_says_what_the_guide_says(name):
    guide = GUIDES[name](model)
    blr = BLR(model, guide, on_sampled="ignore")
    for _ in range(3):
        blr.step(Y)
    draws = draws_of(blr, (Y,), num_samples=S)
    assert_close(draws.log_p, log_joint(draws.latents, Y), rtol=1e-12, atol=1e-12)
    if name != "AutoMultivariateNormal":
        # The same density at the same values, by the guide's own sites.
        for s in (0, S - 1):
            at = {n: v[s] for n, v in draws.latents.items()}
            if name == "AutoNormal":
                trace = poutine.trace(model).get_trace(Y)
                for n in list(at):
                    support = trace.nodes[n]["fn"].support
                    at[f"{n}_unconstrained"] = biject_to(support).inv(at.pop(n))
            own = poutine.trace(poutine.condition(guide, data=at)).get_trace(Y)
            total = sum(x["log_prob_sum"] for x in _with_log_prob(own))
            assert_close(draws.log_q[s], total.detach(), rtol=1e-9, atol=1e-9)


def _with_log_prob(trace):
    trace.compute_log_prob()
    return [x for x in trace.nodes.values() if x["type"] == "sample"]


@pytest.mark.parametrize("name", ["AutoIAFNormal", "AutoStructured", "amortised"])
def test_guides_that_the_engine_knows_by_their_draws(name):
    blr = BLR(model, GUIDES[name](model), on_sampled="ignore")
    fit = blr.fit(Y, max_steps=3)
    assert blr.view is None
    draws = draws_of(fit, (Y,), num_samples=S)
    assert_close(draws.log_p, log_joint(draws.latents, Y), rtol=1e-12, atol=1e-12)
    assert draws.log_q.shape == (S,)


def test_a_natural_guide_under_svi():
    guide = AutoNatural(model)
    guide(Y)
    draws = draws_of(SVI(model, guide, Adam({}), Trace_ELBO()), (Y,), num_samples=S)
    assert_close(draws.log_p, log_joint(draws.latents, Y), rtol=1e-12, atol=1e-12)
    assert len(draws.log_q_parts) == 5


def test_an_elbo_as_a_module_is_a_fit_too():
    guide = auto.AutoNormal(model)
    elbo = Trace_ELBO()(model, guide)
    elbo(Y)
    assert draws_of(elbo, (Y,), num_samples=3).num_samples == 3


@pytest.mark.parametrize("under", ["SVI", "BLR"])
def test_a_point_has_no_density(under):
    guide = auto.AutoDelta(model)
    fit = svi_of(guide) if under == "SVI" else BLR(model, guide)
    if under == "BLR":
        fit.step(Y)
    for count in (1, S):
        draws = draws_of(fit, (Y,), num_samples=count)
        assert draws.points == {"mu", "tau", "share", "w", "z"}
        assert draws.log_q is None
        assert draws.log_likelihood["y"].shape == (count, 5)
    with pytest.raises(errors.GuideError, match=r"holds \['mu'.*as points.* Mend: .*AutoNatural"):
        draws.log_weights  # noqa: B018


@pytest.mark.parametrize("count", [1, 2, S])
def test_points_beside_a_density(count):
    guide = auto.AutoGuideList(model)
    guide.append(auto.AutoMultivariateNormal(poutine.block(model, hide=["tau", "w"])))
    guide.append(auto.AutoDelta(poutine.block(model, expose=["tau", "w"])))
    draws = draws_of(svi_of(guide), (Y,), num_samples=count)
    assert draws.points == {"tau", "w"}
    assert list(draws.log_q_parts) == [("mu", "share", "z")]
    assert draws.log_q.shape == (count,)
    assert bool((draws.latents["tau"] == draws.latents["tau"][0]).all())


@pytest.mark.parametrize("name", ["AutoNormal", "AutoIAFNormal", "written", "amortised"])
def test_one_by_one_is_the_same_as_together(name, monkeypatch):
    # A model that takes a value to Python cannot run under vmap.
    def looked_at(y):
        model(y)
        assert pyro.sample("seen", dist.Normal(0.0, 1.0), obs=torch.zeros(())).item() == 0

    guide = GUIDES[name](model)
    svi = svi_of(guide)
    found = []
    for few in (together.FEW, 10**6):
        monkeypatch.setattr(together, "FEW", few)
        pyro.set_rng_seed(3)
        found.append(draws_of(svi, (Y,), num_samples=8))
    for draws in found:
        assert_close(draws.log_p, log_joint(draws.latents, Y), rtol=1e-12, atol=1e-12)
    alone, many = found
    assert alone.dims == many.dims and alone.plates == many.plates
    assert set(alone.log_q_parts) == set(many.log_q_parts)


def test_parts_that_fit_are_joined(monkeypatch):
    svi = svi_of(auto.AutoNormal(model))
    monkeypatch.setattr(together, "MOST_NUMBERS", 100)
    draws = draws_of(svi, (Y,), num_samples=17)
    assert_close(draws.log_p, log_joint(draws.latents, Y), rtol=1e-12, atol=1e-12)
    assert draws.observed["y"].shape == (5,)
    assert len(torch.unique(draws.latents["mu"])) == 17


@pytest.mark.parametrize("kind", ["value", "in place", "control flow"])
def test_models_that_cannot_run_together(kind):
    def stubborn(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        shift = 0.0
        if kind == "value":
            shift = 1.0 if z.item() > 0 else -1.0
        elif kind == "in place":
            held = torch.zeros(2)
            held[0] = z
            shift = held.sum() - z
        elif z > 0:
            shift = 1.0
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(z + shift, 1.0), obs=y)

    draws = draws_of(svi_of(auto.AutoNormal(stubborn), own=stubborn), (Y,), num_samples=20)
    z = draws.latents["z"]
    shift = {"value": torch.where(z > 0, 1.0, -1.0), "in place": torch.zeros_like(z)}.get(
        kind, (z > 0).double()
    )
    wanted = dist.Normal((z + shift).unsqueeze(-1), 1.0).log_prob(Y)
    assert_close(draws.log_likelihood["y"], wanted)


def test_a_model_may_mix_what_it_is_given_without_mixing_draws():
    def mixing(y):
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("y", dist.Normal(z - z.mean(), 1.0), obs=y)

    draws = draws_of(svi_of(auto.AutoNormal(mixing), own=mixing), (Y,), num_samples=30)
    z = draws.latents["z"]
    wanted = dist.Normal(z - z.mean(-1, keepdim=True), 1.0).log_prob(Y)
    assert_close(draws.log_likelihood["y"], wanted)


def test_sites_that_come_and_go_are_refused():
    def changing(y):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        name = "y" if z.item() > 0 else "other"
        pyro.sample(name, dist.Normal(z, 1.0).expand([5]).to_event(1), obs=y)

    fit = SVI(changing, auto.AutoNormal(changing, init_scale=2.0), Adam({}), Trace_ELBO())
    with pytest.raises(errors.GuideError, match=r"'other', 'y'.* Mend: let the model sample"):
        draws_of(fit, (Y,), num_samples=50)


def test_draws_that_are_not_finite_name_the_site():
    guide = auto.AutoNormal(model)
    svi = svi_of(guide)
    with torch.no_grad():
        guide.locs.mu.fill_(math.nan)
    with (
        pyro.validation_enabled(False),
        pytest.raises(
            errors.NonFiniteError, match=r"site 'mu'.* not finite at \d+ of 20 draws.* Mend: "
        ),
    ):
        draws_of(svi, (Y,), num_samples=20)


def test_a_log_density_that_is_not_finite_names_the_site():
    def bounded(y):
        z = pyro.sample("z", dist.Uniform(0.0, 1.0, validate_args=False))
        pyro.sample("y", dist.Normal(z, 1.0).expand([5]).to_event(1), obs=y)

    def guide(y):
        pyro.sample("z", dist.Normal(0.5, 1.0))

    with pytest.raises(errors.NonFiniteError, match=r"log density of site 'z' is not finite"):
        draws_of(SVI(bounded, guide, Adam({}), Trace_ELBO()), (Y,), num_samples=50)


def test_observing_a_latent_is_part_of_the_prior():
    # The walk of a state-space model is often written so: it is no datum.
    def walk(y):
        with pyro.plate("time", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).mask(False))
            pyro.sample("y", dist.Normal(z, 1.0), obs=y)
        with pyro.plate("step", len(y) - 1):
            pyro.sample("walk", dist.Normal(z[:-1], 0.5), obs=z[1:])

    fit = BLR(walk, AutoNatural(walk)).fit(Y)
    draws = draws_of(fit, (Y,), num_samples=30)
    assert set(draws.observed) == set(draws.log_likelihood) == {"y"}
    assert_close(draws.log_weights, torch.full((30,), -fit.blr.evaluate_loss(Y)))


def test_the_temperature_of_a_fit_is_that_of_its_log_joint():
    def normal(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(z, 0.7), obs=y)

    blr = BLR(normal, AutoNatural(normal), temperature=3.0)
    fit = blr.fit(Y)
    draws = draws_of(fit, (Y,), num_samples=20)
    assert_close(draws.log_weights, torch.full((20,), -blr.evaluate_loss(Y)))
    z = draws.latents["z"]
    assert_close(draws.log_likelihood["y"], dist.Normal(z.unsqueeze(-1), 0.7).log_prob(Y))


def test_a_reparameterised_model():
    def centred(y):
        mu = pyro.sample("mu", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(y)):
            z = pyro.sample("z", dist.Normal(mu, 1.5))
            pyro.sample("y", dist.Normal(z, 0.7), obs=y)

    own = poutine.reparam(centred, config={"z": LocScaleReparam(0.0)})
    draws = draws_of(svi_of(auto.AutoNormal(own), own=own), (Y,), num_samples=S)
    assert set(draws.latents) == {"mu", "z_decentered"}
    assert draws.dims["z"].plates == ("row",)
    wanted = dist.Normal(draws.deterministic["z"], 0.7).log_prob(Y)
    assert_close(draws.log_likelihood["y"], wanted)


def test_data_that_are_observed_in_part():
    seen = torch.tensor([True, False, True, True, False])

    def partial(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Normal(z, 0.7), obs=y, obs_mask=seen)

    draws = draws_of(svi_of(auto.AutoNormal(partial), own=partial), (Y,), num_samples=S)
    assert set(draws.latents) == {"z", "y_unobserved"}
    law = dist.Normal(draws.latents["z"].unsqueeze(-1), 0.7)
    assert_close(draws.log_likelihood["y_observed"], law.log_prob(Y) * seen)


def test_a_conditioned_model():
    def open_model():
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("row", 5):
            pyro.sample("y", dist.Normal(z, 0.7))

    own = poutine.condition(open_model, data={"y": Y})
    draws = draws_of(svi_of(auto.AutoNormal(own), own=own, args=()), (), num_samples=S)
    law = dist.Normal(draws.latents["z"].unsqueeze(-1), 0.7)
    assert_close(draws.log_likelihood["y"], law.log_prob(Y))


def test_a_large_table_is_run_in_parts(monkeypatch):
    # The probabilities of each datum are a thousand numbers, though it has one log density.
    sizes = []

    def classes(y):
        z = pyro.sample("z", dist.Normal(torch.zeros(1000), 1.0).to_event(1))
        with pyro.plate("row", len(y)):
            pyro.sample("y", dist.Categorical(logits=z.expand(len(y), 1000)), obs=y)

    real = together._part
    monkeypatch.setattr(together, "MOST_NUMBERS", 60_000)

    def counted(program, given, count, *rest):
        sizes.append(count)
        return real(program, given, count, *rest)

    monkeypatch.setattr(together, "_part", counted)
    y = torch.arange(5)
    draws_of(svi_of(auto.AutoNormal(classes), own=classes, args=(y,)), (y,), num_samples=20)
    assert max(sizes[-3:]) <= 6


def test_nothing_outside_sees_the_runs():
    svi = svi_of(auto.AutoNormal(model))
    with poutine.trace() as outer:
        draws_of(svi, (Y,), num_samples=5)
    assert len(outer.trace.nodes) == 0


def test_float32_follows_the_model():
    torch.set_default_dtype(torch.float32)
    try:
        y = Y.float()

        def single(y):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
            with pyro.plate("row", len(y)):
                pyro.sample("y", dist.Normal(z, 0.7), obs=y)

        draws = draws_of(
            svi_of(auto.AutoNormal(single), own=single, args=(y,)), (y,), num_samples=9
        )
        assert draws.latents["z"].dtype == torch.float32
        assert draws.log_p.dtype == draws.log_q.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float64)


# Draws outside of the model's support


def waiting(y):
    """torch's Exponential has a finite log density below 0."""
    with pyro.plate("queues", 2):
        z = pyro.sample("z", dist.Exponential(1.0).expand([3]).to_event(1))
    pyro.sample("y", dist.Normal(z.sum(), 1.0), obs=y)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("use", [draws_of, report, site_khat])
def test_draws_outside_of_the_support_have_no_density(seed, use):
    def guide(y):
        with pyro.plate("queues", 2):
            pyro.sample("z", dist.Normal(2.0, 0.8).expand([3]).to_event(1))

    pyro.set_rng_seed(seed)
    svi = SVI(waiting, guide, pyro.optim.Adam({}), Trace_ELBO())
    y = torch.tensor(1.0)
    given = ((y,), {}, 2000) if use is draws_of else (y,)
    with pytest.raises(errors.NonFiniteError, match=r"site 'z' is not finite at .*support"):
        use(svi, *given)


def test_draws_outside_of_the_support_matter_only_where_they_are_not_masked():
    def model(y):
        with pyro.plate("queues", 2), poutine.mask(mask=torch.tensor([True, False])):
            z = pyro.sample("z", dist.Exponential(1.0))
        pyro.sample("y", dist.Normal(z.sum(), 1.0), obs=y)

    def guide(y):
        with pyro.plate("queues", 2):
            pyro.sample("z", dist.Normal(torch.tensor([9.0, 0.0]), 1.0))

    svi = SVI(model, guide, pyro.optim.Adam({}), Trace_ELBO())
    drawn = draws_of(svi, (torch.tensor(1.0),), {}, 100)
    assert (drawn.latents["z"][:, 1] < 0).any() and torch.isfinite(drawn.log_p).all()
