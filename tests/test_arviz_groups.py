# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The groups of an export beyond draws and data, their names, files, and what goes wrong."""

import math

import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray
from pyro import poutine
from pyro.contrib.autoname import scope
from pyro.infer import SVI, Trace_ELBO
from pyro.infer import autoguide as auto
from pyro.infer.importance import psis_diagnostic
from pyro.ops.stats import fit_generalized_pareto
from pyro.optim import Adam

from pyro_blr import BLR, errors, to_arviz
from pyro_blr.arviz import GROUPS, loo
from pyro_blr.guides import AutoNatural

X = torch.tensor([[0.1, 1.0], [0.5, -1.0], [1.0, 0.3], [2.0, 0.2], [3.0, -0.6]])
Y = torch.tensor([1.2, -0.4, 0.9, 2.1, 0.3])


def line(X, y, spread=0.7):
    a = pyro.sample("a", dist.Normal(0.0, 3.0))
    b = pyro.sample("b", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("person", len(X)):
        pyro.sample("y", dist.Normal(a + X @ b, spread), obs=y)


def normal_mean(y):
    z = pyro.sample("z", dist.Normal(0.0, 2.0))
    with pyro.plate("person", len(y)):
        pyro.sample("y", dist.Normal(z, 0.7), obs=y)


def fitted(model, *args, **settings):
    return BLR(model, AutoNatural(model), on_sampled="ignore", **settings).fit(*args)


def groups_of(tree):
    return [name.strip("/") for name in tree.groups if name != "/"]


@pytest.fixture
def fit():
    return fitted(line, X, Y)


def test_every_group_is_there(fit):
    assert groups_of(to_arviz(fit, X, Y, num_samples=6)) == list(GROUPS)


def test_predictions_are_drawn_at_each_draw(fit):
    tree = to_arviz(fit, X, Y, num_samples=3000, seed=1)
    predicted = tree["posterior_predictive"]["y"]
    assert predicted.dims == ("chain", "draw", "person")
    posterior = tree["posterior"]
    mean = posterior["a"].values[..., None] + posterior["b"].values @ X.T.numpy()
    noise = predicted.values - mean
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 0.7) < 0.03
    # The noises of rows and of draws are independent.
    assert abs(np.corrcoef(noise[0], rowvar=False) - np.eye(5)).max() < 0.1
    before = tree["prior_predictive"]["y"].values
    assert abs(before.std(1) - (9 + 9 * (X**2).sum(1).numpy() + 0.49) ** 0.5).max() < 0.6
    assert abs(tree["prior"]["a"].values.std() - 3.0) < 0.2


def test_log_priors_and_likelihoods_sum_to_the_log_joint(fit):
    tree = to_arviz(fit, X, Y, num_samples=9)
    prior = tree["log_prior"]
    total = prior["a"].values + prior["b"].values
    total = total + tree["log_likelihood"]["y"].values.sum(-1)
    np.testing.assert_allclose(tree["sample_stats"]["log_p"].values, total, rtol=1e-12)


def test_constants_are_the_arguments_that_are_not_observed(fit):
    tree = to_arviz(fit, X, Y, num_samples=3)
    assert list(tree["constant_data"].data_vars) == ["X"]
    assert tree["constant_data"]["X"].dims == ("person", "X_dim_1")
    np.testing.assert_array_equal(tree["constant_data"]["X"].values, X)


def test_constants_in_lists_dictionaries_and_keywords():
    def model(rows, *more, **named):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("person", 5):
            mean = z + rows["x"] + more[0] + torch.as_tensor(named["w"])
            pyro.sample("y", dist.Normal(mean, 1.0), obs=rows["y"].double())

    args = {"x": X[:, 0], "y": Y}, X[:, 1]
    fit = BLR(model, AutoNatural(model)).fit(*args, w=np.arange(5.0))
    tree = to_arviz(fit, *args, num_samples=3, w=np.arange(5.0))
    found = tree["constant_data"]
    assert set(found.data_vars) == {"rows_x", "more_0", "w"}
    assert found["w"].dims == ("person",)


def test_the_history_of_a_fit(fit):
    tree = to_arviz(fit, X, Y, num_samples=3)
    np.testing.assert_array_equal(tree["fit"]["loss"].values, fit.losses)
    told = tree["fit"].attrs
    assert told["gap"] == fit.gap and told["residual"] == fit.residual
    assert told["reason"] == fit.reason and told["converged"] == 1 and told["steps"] == fit.steps
    assert "fit" not in groups_of(to_arviz(fit.blr, X, Y, num_samples=3))


@pytest.mark.parametrize("kind", ["normal", "flow", "point"])
def test_fits_of_svi(kind):
    guide = {
        "normal": auto.AutoNormal,
        "flow": lambda model: auto.AutoIAFNormal(model, hidden_dim=[8]),
        "point": auto.AutoDelta,
    }[kind](line)
    svi = SVI(line, guide, Adam({"lr": 0.01}), Trace_ELBO())
    for _ in range(5):
        svi.step(X, Y)
    tree = to_arviz(svi, X, Y, num_samples=8)
    expected = [g for g in GROUPS if g != "fit"]
    assert groups_of(tree) == expected
    assert ("log_q" in tree["sample_stats"]) == (kind != "point")
    if kind == "point":
        assert tree["sample_stats"].attrs["points"] == ["a", "b"]
    assert len(arviz_stats.summary(tree, kind="stats")) == 3


# Names


def test_names_and_labels_are_the_users(fit):
    tree = to_arviz(
        *(fit, X, Y),
        num_samples=3,
        dims={"b": ["feature"], "X": ["person", "feature"]},
        coords={"feature": ["age", "dose"], "person": list("ABCDE")},
    )
    assert tree["posterior"]["b"].dims == ("chain", "draw", "feature")
    assert tree["posterior"]["b"].coords["feature"].values.tolist() == ["age", "dose"]
    assert tree["constant_data"]["X"].dims == ("person", "feature")
    assert tree["observed_data"]["y"].coords["person"].values.tolist() == list("ABCDE")
    assert list(arviz_stats.summary(tree, kind="stats").index) == ["a", "b[age]", "b[dose]"]


def test_all_dims_of_a_variable_may_be_named(fit):
    tree = to_arviz(fit, X, Y, num_samples=3, dims={"y": ["patient"]})
    for group in ("posterior_predictive", "log_likelihood"):
        assert tree[group]["y"].dims == ("chain", "draw", "patient")


@pytest.mark.parametrize(
    "given, match",
    [
        ({"dims": {"c": ["x"]}}, r"\['c'\], which are no variables"),
        ({"dims": {"b": "x"}}, r"'b' has 'x'"),
        ({"dims": {"b": ["x", "y"]}}, r"'b' has 1 dims"),
        ({"dims": {"X": ["x", "x"]}}, r"'X' twice"),
        ({"dims": {"b": ["draw"]}}, r"dim 'draw' of 'b'"),
        ({"dims": {"b": ["a"]}}, r"dim 'a' of 'b'"),
        ({"dims": {"b": ["person"]}}, r"'person' has 2 elements, and 5 in|5 elements, and 2 in"),
        ({"coords": {"person": ["A", "B"]}}, r"2 labels along 'person'"),
        ({"coords": {"persons": list("ABCDE")}}, r"\['persons'\], and no variable"),
        ({"groups": "posterior"}, r"groups must be a list .*'posterior'"),
        ({"groups": ["priors"]}, r"\['priors'\] is not"),
        ({"container": "tree"}, r"container must be one of"),
        ({"container": "inferencedata"}, r"InferenceData is in ArviZ before 1.0 only"),
    ],
)
def test_slips_are_refused_with_the_mend(fit, given, match):
    with pytest.raises(errors.ArgumentError, match=f"(?s){match}.* Mend: "):
        to_arviz(fit, X, Y, num_samples=2, **given)


def test_a_plate_named_like_an_argument_gives_way():
    def model(school, y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("school", 5):
            pyro.sample("y", dist.Normal(z + school, 0.7), obs=y)

    tree = to_arviz(fitted(model, X[:, 0], Y), X[:, 0], Y, num_samples=3)
    assert tree["constant_data"]["school"].dims == ("school_dim",)
    assert tree["observed_data"]["y"].dims == ("school_dim",)


def test_labels_along_a_plate_that_gave_way_are_given_by_its_own_name():
    def model(school, y):
        with pyro.plate("school", 3):
            z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("pupil", 5):
            pyro.sample("y", dist.Normal(z[school], 0.7), obs=y)

    school = torch.tensor([0, 1, 2, 0, 1])
    fit = fitted(model, school, Y)
    for name in ("school", "school_dim"):
        tree = to_arviz(fit, school, Y, num_samples=3, coords={name: ["A", "B", "C"]})
        assert tree["posterior"]["z"].coords["school_dim"].values.tolist() == ["A", "B", "C"]


def test_two_plates_that_would_have_one_name():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("z_dim", 5):
            pyro.sample("more", dist.Normal(z, 0.7), obs=y)
        with pyro.plate("draw", 5):
            pyro.sample("y", dist.Normal(z, 0.7), obs=y)
        with pyro.plate("draw_dim", 3):
            pyro.sample("third", dist.Normal(z, 0.7), obs=y[:3])

    data = to_arviz(fitted(model, Y), Y, num_samples=3)["observed_data"]
    assert data["more"].dims == ("z_dim",)
    assert len({data[n].dims for n in ("more", "y", "third")}) == 3


def test_a_slash_in_a_name_is_a_dot(tmp_path):
    def model(y):
        with scope(prefix="part"):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with pyro.plate("rows/all", 5):
            pyro.sample("y", dist.Normal(z.sum(), 0.7), obs=y)

    tree = to_arviz(fitted(model, Y), Y, num_samples=3)
    assert tree["posterior"]["part.z"].dims == ("chain", "draw", "part.z_dim_0")
    assert tree["observed_data"]["y"].dims == ("rows.all",)
    tree.to_netcdf(tmp_path / "fit.nc")
    with xarray.open_datatree(tmp_path / "fit.nc") as found:
        assert tree.identical(found)


def test_a_keyword_that_is_also_the_models_is_asked_about():
    def model(groups, y):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 2.0).to_event(1))
        with pyro.plate("row", 5):
            pyro.sample("y", dist.Normal(z[groups], 0.7), obs=y)

    args = torch.tensor([0, 1, 0, 1, 1]), Y
    fit = fitted(model, *args)
    assert to_arviz(fit, *args, num_samples=2, groups=["posterior"])["posterior"]
    with pytest.raises(errors.ArgumentError, match=r"'groups' is an argument of to_arviz and of"):
        to_arviz(fit, num_samples=2, groups=args[0], y=Y)


# Groups that are not there


def test_a_model_without_data_has_no_likelihood():
    def model():
        pyro.sample("z", dist.Normal(0.0, 2.0))
        pyro.factor("nudge", torch.tensor(-0.5))

    tree = to_arviz(fitted(model), num_samples=5)
    assert groups_of(tree) == ["posterior", "log_prior", "prior", "sample_stats", "fit"]
    assert len(arviz_stats.summary(tree, kind="stats")) == 1
    with pytest.raises(errors.ArgumentError, match=r"nothing for the group 'log_likelihood'"):
        to_arviz(fitted(model), num_samples=5, groups=["log_likelihood"])
    with pytest.raises(errors.ArgumentError, match=r"no log likelihood.*Mend: observe a site"):
        loo(tree)


def test_groups_may_be_chosen(fit):
    tree = to_arviz(fit, X, Y, num_samples=4, groups=["sample_stats", "posterior"])
    assert groups_of(tree) == ["posterior", "sample_stats"]


def test_a_prior_that_cannot_be_drawn_is_left_out_with_a_warning():
    def model(y):
        flat = dist.ImproperUniform(dist.constraints.real, (), ())
        z = pyro.sample("z", flat)
        with pyro.plate("person", len(y)):
            pyro.sample("y", dist.Normal(z, 0.7), obs=y)

    start = auto.init_to_value(values={"z": torch.zeros(())})
    svi = SVI(model, auto.AutoNormal(model, init_loc_fn=start), Adam({}), Trace_ELBO())
    svi.guide(Y)
    with pytest.warns(errors.LeftOutWarning, match=r"\['prior', 'prior_pred.*'\] are left"):
        tree = to_arviz(svi, Y, num_samples=4)
    assert "posterior_predictive" in groups_of(tree) and "prior" not in groups_of(tree)


def test_data_that_cannot_be_drawn_are_left_out_with_a_warning():
    def model(y):
        mu = pyro.sample("mu", dist.Normal(torch.tensor([-1.0, 1.0]), 1.0).to_event(1))
        chain = dist.DiscreteHMM(torch.zeros(2), torch.zeros(2, 2), dist.Normal(mu, 1.0))
        pyro.sample("y", chain, obs=y)  # of no duration

    fit = fitted(model, Y)
    wanted = r"\['posterior_predictive', 'prior_predictive'\] .*AssertionError.* Mend: "
    with pytest.warns(errors.LeftOutWarning, match=wanted):
        tree = to_arviz(fit, Y, num_samples=4)
    assert {"log_likelihood", "prior"} < set(groups_of(tree))
    with pytest.raises(AssertionError):
        to_arviz(fit, Y, num_samples=4, groups=["posterior_predictive"])


# Draws


def test_a_seed_gives_the_same_draws_and_leaves_the_generator(fit):
    torch.manual_seed(7)
    wanted = torch.rand(3)
    torch.manual_seed(7)
    first = to_arviz(fit, X, Y, num_samples=20, seed=4)
    assert torch.equal(torch.rand(3), wanted)
    assert first.identical(to_arviz(fit, X, Y, num_samples=20, seed=4))
    assert not first.identical(to_arviz(fit, X, Y, num_samples=20, seed=5))


def test_draws_that_are_not_finite_name_the_site():
    guide = auto.AutoNormal(normal_mean)
    svi = SVI(normal_mean, guide, Adam({}), Trace_ELBO())
    guide(Y)
    with torch.no_grad():
        guide.locs.z.fill_(math.inf)
    wanted = pytest.raises(
        errors.NonFiniteError, match=r"site 'z'.* not finite at 4 of 4 draws.* Mend: "
    )
    with wanted, pyro.validation_enabled(False):
        to_arviz(svi, Y, num_samples=4)


# Files


def test_a_file_holds_what_was_written(fit, tmp_path):
    path = tmp_path / "fit.nc"
    tree = to_arviz(fit, X, Y, num_samples=7, coords={"person": list("ABCDE")})
    tree.to_netcdf(path)
    with xarray.open_datatree(path) as found:
        assert tree.identical(found)
        assert found.attrs == tree.attrs


def test_a_file_of_a_point_and_of_missing_data(tmp_path):
    mask = torch.tensor([True, False, True, True, True])

    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("person", 5), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(z, 0.7), obs=y)

    y = torch.where(mask, Y, torch.zeros(()))
    svi = SVI(model, auto.AutoDelta(model), Adam({}), Trace_ELBO())
    svi.step(y)
    tree = to_arviz(svi, y, num_samples=7)
    tree.to_netcdf(tmp_path / "fit.nc")
    with xarray.open_datatree(tmp_path / "fit.nc") as found:
        assert tree.identical(found)


# Traps


def log_ratios(scale, count=4000):
    """Log weights of draws of a normal of some scale for a standard one."""
    draws = scale * torch.randn(count)
    return dist.Normal(0.0, 1.0).log_prob(draws) - dist.Normal(0.0, scale).log_prob(draws)


def test_psislw_takes_minus_the_log_weights():
    from arviz_stats.base import array_stats

    weights = log_ratios(0.5)
    k = float(array_stats.psislw(-weights.numpy())[1])
    assert k > 0.5 > 0 > float(array_stats.psislw(weights.numpy())[1])
    # As Pyro's own psis_diagnostic fits the tail.
    tail = int(min(0.2 * 4000, 3 * 4000**0.5)) + 1
    top = weights.sort(descending=True)[0][:tail].exp()
    own, _ = fit_generalized_pareto(top[:-1] - top[-1])
    assert abs(own - k) < 0.05


def test_the_whole_guides_k_is_that_of_pyro():
    from arviz_stats.base import array_stats

    guide = auto.AutoNormal(normal_mean, init_scale=0.1)  # a third of what it should be
    svi = SVI(normal_mean, guide, Adam({}), Trace_ELBO())
    guide(Y)
    stats = to_arviz(svi, Y, num_samples=4000, seed=0)["sample_stats"]
    k = float(array_stats.psislw(-(stats["log_p"] - stats["log_q"]).values.ravel())[1])
    own = psis_diagnostic(normal_mean, guide, Y, num_particles=4000, max_plate_nesting=1)
    assert k > 0.7 < own
    assert abs(k - own) < 0.3


def test_draws_are_one_chain(fit):
    tree = to_arviz(fit, X, Y, num_samples=50)
    for group in ("posterior", "posterior_predictive", "log_likelihood", "log_prior", "prior"):
        for value in tree[group].data_vars.values():
            assert value.dims[:2] == ("chain", "draw") and value.shape[:2] == (1, 50)
    # One chain has no r_hat, and independent draws have an effective size of about their number.
    summary = arviz_stats.summary(tree, kind="diagnostics", round_to="none")
    assert summary["r_hat"].isna().all()


def exact_loo(y):
    """Of a normal mean with known noise."""
    precision = 0.25 + (len(y) - 1) / 0.49
    mean = (y.sum() - y) / 0.49 / precision
    return dist.Normal(mean, (0.49 + 1 / precision) ** 0.5).log_prob(y).numpy()


def too_narrow(times):
    """A fit of the normal mean whose q is narrower than the posterior."""
    fit = fitted(normal_mean, Y)
    law = fit.blr.guide.marginal("z")
    fit.blr.guide.set_natural({"z": dist.Normal(law.mean, law.stddev / times)})
    return fit.blr


def test_loo_has_the_signs_of_arviz_and_is_the_closed_form():
    tree = to_arviz(fitted(normal_mean, Y), Y, num_samples=4000, seed=0)
    own = loo(tree)
    log_p, log_q = (tree["sample_stats"].dataset[n].values.ravel() for n in ("log_p", "log_q"))
    theirs = arviz_stats.loo_approximate_posterior(tree, log_p, log_q, pointwise=True)
    np.testing.assert_allclose(own.elpd_i.values, theirs.elpd_i.values, atol=1e-9)
    np.testing.assert_allclose(own.pareto_k.values, theirs.pareto_k.values, atol=1e-9)
    np.testing.assert_allclose(own.elpd_i.values, exact_loo(Y), atol=0.1)
    assert float(own.pareto_k.max()) < 0.7


def test_loo_of_a_narrow_guide_is_off_and_says_so():
    tree = to_arviz(too_narrow(5), Y, num_samples=1000, seed=0)
    with pytest.warns(UserWarning, match="Pareto"):
        assert float(loo(tree).pareto_k.min()) > 0.7
    plain = arviz_stats.loo(tree, pointwise=True)  # takes q for the posterior
    assert float(plain.pareto_k.max()) < 0.7


def test_a_wrong_sign_of_the_weights_would_be_seen():
    # q twice too wide is still good for importance sampling, and weights of the other sign are not.
    tree = to_arviz(too_narrow(0.5), Y, num_samples=4000, seed=0)
    np.testing.assert_allclose(loo(tree).elpd_i.values, exact_loo(Y), atol=0.1)
    stats = tree["sample_stats"].dataset
    log_p, log_q = (stats[n].values.ravel() for n in ("log_p", "log_q"))
    with pytest.warns(UserWarning, match="Pareto"):
        turned = arviz_stats.loo_approximate_posterior(tree, log_q, log_p, pointwise=True)
    assert abs(turned.elpd_i.values - exact_loo(Y)).max() > 0.2


@pytest.mark.filterwarnings("ignore:The inplace keyword")  # ArviZ's compare, of pandas
def test_constant_weights_need_no_smoothing():
    # q is exact, and a masked datum says nothing: taking it out weighs every draw alike.
    mask = torch.tensor([True, False, True, True, True])

    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("person", 5), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(z, 3.0), obs=y)

    tree = to_arviz(fitted(model, Y), Y, num_samples=400)
    with pytest.raises(ValueError, match="All tail values are the same"):
        arviz_stats.loo(tree, pointwise=True)
    found = loo(tree)
    assert found.pareto_k.values[1] == -np.inf
    assert found.elpd_i.values[1] == pytest.approx(0.0, abs=1e-12)
    assert np.isfinite(np.delete(found.pareto_k.values, 1)).all()
    assert len(arviz_stats.compare({"one": found, "other": loo(tree)})) == 2


def test_loo_of_a_point_is_its_log_likelihood():
    svi = SVI(normal_mean, auto.AutoDelta(normal_mean), Adam({}), Trace_ELBO())
    svi.step(Y)
    tree = to_arviz(svi, Y, num_samples=30)
    np.testing.assert_allclose(loo(tree).elpd_i.values, tree["log_likelihood"]["y"].values[0, 0])


def test_loo_asks_which_site():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("person", len(y)):
            pyro.sample("one", dist.Normal(z, 0.7), obs=y)
            pyro.sample("two", dist.Normal(z, 0.7), obs=y)

    tree = to_arviz(fitted(model, Y), Y, num_samples=100)
    with pytest.raises(errors.ArgumentError, match=r"\['one', 'two'\]. Mend: loo\(tree, var_name"):
        loo(tree)
    with pytest.raises(errors.ArgumentError, match=r"'three' is none of them"):
        loo(tree, "three")
    assert loo(tree, "two").elpd_i.shape == (5,)
