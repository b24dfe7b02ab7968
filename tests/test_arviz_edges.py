# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What ArviZ cannot be given as it is: names, values and weights; each is said."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO
from pyro.optim import Adam

from pyro_blr import BLR, diagnostics, errors, to_arviz
from pyro_blr.arviz import loo
from pyro_blr.guides import AutoNatural

Y = torch.ones(3)


def mean(y):
    z = pyro.sample("z", dist.Normal(0.0, 2.0))
    with pyro.plate("d", len(y)):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def fitted(model, *args):
    return BLR(model, AutoNatural(model)).fit(*args)


@pytest.fixture(scope="module")
def fit():
    return fitted(mean, Y)


@pytest.mark.parametrize("name", ["chain", "draw", "sample"])
def test_a_site_with_the_name_of_a_dim_of_draws_is_renamed(name, tmp_path):
    def model():
        pyro.sample(name, dist.Normal(0.0, 1.0).expand([2]).to_event(1))

    with pytest.warns(errors.RenamedWarning, match=f"'{name}' is called '{name}_'.*Mend"):
        tree = to_arviz(fitted(model), num_samples=4)
    assert list(tree["posterior"].data_vars) == [f"{name}_"]
    tree.to_netcdf(tmp_path / "fit.nc")


def test_a_slash_that_makes_two_names_one_is_said():
    def model():
        pyro.sample("a/w", dist.Normal(0.0, 1.0))
        pyro.sample("a.w", dist.Normal(0.0, 0.1))

    with pytest.warns(errors.RenamedWarning, match=r"'a/w' is called 'a\.w_'"):
        tree = to_arviz(fitted(model), num_samples=200, seed=0)
    assert float(tree["posterior"]["a.w"].std()) < 0.2 < float(tree["posterior"]["a.w_"].std())


def test_no_data_and_booleans_make_every_group():
    def model(y, none):
        p = pyro.sample("p", dist.Beta(1.0, 1.0))
        pyro.sample("none", dist.Normal(p, 1.0).expand([0]).to_event(1), obs=none)
        with pyro.plate("d", len(y)):
            pyro.sample("y", dist.Bernoulli(p), obs=y)

    args = (torch.tensor([True, False, True]), torch.zeros(0))
    tree = to_arviz(fitted(model, *args), *args, num_samples=8)
    assert tree["posterior_predictive"]["none"].shape == (1, 8, 0)
    assert tree["observed_data"]["y"].values.tolist() == [1.0, 0.0, 1.0]
    assert "constant_data" not in tree.children


def test_a_computed_site_that_is_not_finite_is_named():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        pyro.deterministic("root", z.sqrt())
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)

    fit = fitted(model, torch.tensor(0.0))
    with pytest.warns(errors.NonFiniteWarning, match=r"'root' is NaN or infinite at \d+ of 50"):
        to_arviz(fit, torch.tensor(0.0), num_samples=50)


# Weights


def beside(y):
    u = pyro.sample("u", dist.Normal(0.0, 1.0), infer={"is_auxiliary": True})
    pyro.sample("z", dist.Normal(u + pyro.param("m", torch.tensor(0.0)), 0.3))


def halved(y):
    u = pyro.sample(
        "u", dist.Normal(0.0, 1.0).expand([2]).to_event(1), infer={"is_auxiliary": True}
    )
    pyro.sample("z", dist.Delta(u.sum() + pyro.param("m", torch.tensor(0.0))))


@pytest.mark.parametrize("guide", [beside, halved])
def test_a_guide_that_draws_more_than_latents_has_no_log_q(guide):
    svi = SVI(mean, guide, Adam({"lr": 0.01}), Trace_ELBO())
    svi.step(Y)
    with pytest.warns(errors.LeftOutWarning, match=r"log_q is left out.*\['u'\].*Mend"):
        tree = to_arviz(svi, Y, num_samples=40)
    assert list(tree["sample_stats"].data_vars) == ["log_p"]
    with pytest.raises(errors.ArgumentError, match=r"\['u'\] beside the latents.*Mend"):
        loo(tree)
    with pytest.raises(errors.GuideError, match=r"\['u'\] beside the latents.*Mend"):
        diagnostics.report(svi, Y)


SMALL = torch.tensor(0.01, dtype=torch.float32)


@pytest.mark.parametrize(
    "law", [dist.Dirichlet(SMALL.expand(5)), dist.Beta(SMALL, SMALL), dist.Gamma(SMALL, SMALL)]
)
@pytest.mark.filterwarnings("ignore:Encountered")
def test_draws_that_float32_rounds_to_the_edge_ask_for_float64(law):
    def model():
        pyro.sample("p", law)

    with pytest.raises(errors.NonFiniteError, match=r"'p'.*Mend: use float64.*float32"):
        to_arviz(fitted(model), num_samples=2000, seed=0)


# Calls


def test_calls_that_cannot_be_are_typed(fit):
    for call in (
        lambda: to_arviz(fit),
        lambda: to_arviz(fit, Y, bogus=1),
        lambda: to_arviz(fit, Y, seed="a"),
        lambda: loo(None),
        lambda: loo(fit),
        lambda: loo(to_arviz(fit, Y, num_samples=5)),
        lambda: loo(to_arviz(fit, Y, num_samples=1)),
        lambda: loo(to_arviz(fit, Y, groups=["log_likelihood"])),
    ):
        with pytest.raises(errors.ArgumentError, match="Mend"):
            call()


def test_an_unknown_keyword_names_the_ones_there_are(fit):
    with pytest.raises(errors.ArgumentError, match=r"'bogus'.*to_arviz's own keywords.*seed"):
        to_arviz(fit, Y, bogus=1)
