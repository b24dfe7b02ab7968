# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What a fit gives to ArviZ: the weights are right to the last digit, every dim has its name."""

import sys

import arviz_stats
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

from pyro_blr import BLR, errors, to_arviz
from pyro_blr.guides import AutoNatural

HEIGHTS = [1.2, -0.4, 0.9, 2.1, 0.3]
COUNTS = [3.0, 0.0, 5.0, 2.0]


def fitted(model, *args, **settings):
    """A fit to convergence, quietly where a factor is sampled."""
    blr = BLR(model, AutoNatural(model), on_sampled="ignore", **settings)
    return blr.fit(*args, max_steps=200)


def normal_mean(y):
    z = pyro.sample("z", dist.Normal(0.0, 2.0))
    with pyro.plate("person", len(y)):
        pyro.sample("y", dist.Normal(z, 0.7), obs=y)


def gamma_poisson(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("day", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def line(x, y):
    a = pyro.sample("a", dist.Normal(0.0, 3.0))
    b = pyro.sample("b", dist.Normal(0.0, 3.0))
    with pyro.plate("person", len(y)):
        pyro.sample("y", dist.Normal(a + b * x, 0.7), obs=y)


def schools(sigma, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.LogNormal(1.0, 1.0))
    with pyro.plate("school", len(y)):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        pyro.sample("y", dist.Normal(theta, sigma), obs=y)


def school_data(dtype):
    sigma = torch.tensor([15, 10, 16, 11, 9, 11, 10, 18], dtype=dtype)
    return sigma, torch.tensor([28, 8, -3, 7, -1, 1, 18, 12], dtype=dtype)


def vector_data(dtype=None):
    return torch.tensor(HEIGHTS, dtype=dtype)


@pytest.fixture
def dtype(request):
    """The default dtype of a test, which its models follow."""
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(torch.float64)


def log_weights(tree):
    stats = tree["sample_stats"]
    return (stats["log_p"] - stats["log_q"]).values[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str, indirect=True)
@pytest.mark.parametrize(
    "model, args",
    [(normal_mean, (HEIGHTS,)), (gamma_poisson, (COUNTS,)), (line, ([0.1, 0.5, 1, 2, 3], HEIGHTS))],
    ids=["normal", "gamma", "merged"],
)
def test_weights_of_an_exact_posterior_are_all_the_evidence(model, args, dtype):
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    data = [torch.tensor(a, dtype=dtype) for a in args]
    fit = fitted(model, *data)
    evidence = -fit.blr.evaluate_loss(*data)
    tree = to_arviz(fit, *data, num_samples=30)
    np.testing.assert_allclose(log_weights(tree), evidence, rtol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str, indirect=True)
def test_weights_average_to_the_elbo(dtype):
    # A Jacobian (tau), a merged block (mu, theta), correlated elements.
    data = school_data(dtype)
    fit = fitted(schools, *data)
    elbo = -fit.blr.evaluate_loss(*data)
    weights = log_weights(to_arviz(fit, *data, num_samples=1000))
    error = weights.std() / np.sqrt(len(weights))
    assert 0.005 < error < 0.1
    assert abs(weights.mean() - elbo) < 4 * error


def test_summary_runs():
    data = school_data(torch.float64)
    tree = to_arviz(fitted(schools, *data), *data, num_samples=100)
    summary = arviz_stats.summary(tree, kind="stats")
    assert list(summary.index) == ["mu", "tau", *(f"theta[{i}]" for i in range(8))]


def loo(tree):
    stats = tree["sample_stats"].dataset
    log_p, log_q = (stats[name].values.ravel() for name in ("log_p", "log_q"))
    return arviz_stats.loo_approximate_posterior(tree, log_p, log_q, pointwise=True)


def test_loo_is_the_closed_form():
    y = vector_data()
    result = loo(to_arviz(fitted(normal_mean, y), y, num_samples=4000))
    # Without datum i: precision 1/4 + 4/0.49, mean (sum of the others / 0.49) / precision.
    precision = 0.25 + 4 / 0.49
    mean = (y.sum() - y) / 0.49 / precision
    wanted = dist.Normal(mean, (0.49 + 1 / precision) ** 0.5).log_prob(y)
    # Standard errors of 4000 draws, measured: 0.003 to 0.03 nats.
    np.testing.assert_allclose(result.elpd_i.values, wanted, atol=0.1)
    assert result.pareto_k.max() < 0.7


def test_loo_tells_that_q_is_too_narrow():
    y = vector_data()
    blr = fitted(normal_mean, y).blr
    mean, scale = blr.guide.marginal("z").mean, blr.guide.marginal("z").stddev
    blr.guide.set_natural({"z": dist.Normal(mean, scale / 5)})
    with pytest.warns(UserWarning, match="Pareto"):
        result = loo(to_arviz(blr, y, num_samples=1000))
    assert result.pareto_k.min() > 0.7


def test_dims_have_the_names_of_plates():
    data = school_data(torch.float64)
    tree = to_arviz(fitted(schools, *data), *data, num_samples=5)
    assert tree["posterior"]["theta"].dims == ("chain", "draw", "school")
    assert tree["posterior"]["theta"].shape == (1, 5, 8)
    assert tree["posterior"]["mu"].dims == ("chain", "draw")
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "school")
    assert tree["observed_data"]["y"].dims == ("school",)
    assert tree["posterior"]["school"].values.tolist() == list(range(8))


def test_log_likelihood_and_data_are_the_models_own():
    sigma, y = school_data(torch.float64)
    tree = to_arviz(fitted(schools, sigma, y), sigma, y, num_samples=7)
    theta = torch.as_tensor(tree["posterior"]["theta"].values)
    wanted = dist.Normal(theta, sigma).log_prob(y)
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values, wanted, rtol=1e-13)
    np.testing.assert_array_equal(tree["observed_data"]["y"].values, y)


def test_singletons_outside_plates_are_dropped_and_event_dims_kept():
    def model(y):
        with pyro.plate("row", 5, dim=-2):
            z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
            one = pyro.sample("one", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            assert z.shape == (5, 1, 3)
            pyro.sample("y", dist.Normal(z + one, 1.0).to_event(1), obs=y)

    y = torch.arange(15.0).reshape(5, 1, 3)
    tree = to_arviz(fitted(model, y), y, num_samples=4)
    assert tree["posterior"]["z"].dims == ("chain", "draw", "row", "z_dim_1")
    assert tree["posterior"]["z"].shape == (1, 4, 5, 3)
    assert tree["posterior"]["one"].shape == (1, 4, 5, 1)
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "row")
    assert tree["observed_data"]["y"].dims == ("row", "y_dim_1")
    np.testing.assert_array_equal(tree["observed_data"]["y"].values, y.squeeze(1))


def test_deterministic_sites_are_in_the_posterior():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        twice = pyro.deterministic("twice", 2 * z)
        with pyro.plate("person", len(y)):
            shifted = pyro.deterministic("shifted", z + torch.arange(float(len(y))))
            pyro.deterministic("pair", torch.stack([shifted, -shifted], -1), event_dim=1)
            pyro.sample("y", dist.Normal(shifted + 0 * twice, 0.7), obs=y)

    y = vector_data()
    tree = to_arviz(fitted(model, y), y, num_samples=6)
    posterior = tree["posterior"]
    np.testing.assert_allclose(posterior["twice"].values, 2 * posterior["z"].values)
    assert posterior["shifted"].dims == ("chain", "draw", "person")
    assert posterior["pair"].dims == ("chain", "draw", "person", "pair_dim_1")
    assert list(tree["observed_data"].data_vars) == ["y"]
    assert list(tree["log_likelihood"].data_vars) == ["y"]


def test_masked_data_count_nothing_and_a_scale_counts_in_the_joint_only():
    mask = torch.tensor([True, False, True, True, False])

    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("person", len(y)), poutine.scale(scale=0.5), poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(z, 0.7), obs=y)

    y = vector_data()
    fit = fitted(model, y)
    tree = to_arviz(fit, y, num_samples=6)
    z = torch.as_tensor(tree["posterior"]["z"].values)
    wanted = dist.Normal(z.unsqueeze(-1), 0.7).log_prob(y) * mask
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values, wanted, rtol=1e-13)
    joint = 0.5 * wanted.sum(-1) + dist.Normal(0.0, 2.0).log_prob(z)
    np.testing.assert_allclose(tree["sample_stats"]["log_p"].values, joint, rtol=1e-13)
    np.testing.assert_allclose(log_weights(tree), -fit.blr.evaluate_loss(y), rtol=1e-10)


def test_a_factor_counts_in_the_joint_and_is_no_datum():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        pyro.factor("nudge", -0.5 * (z - 1) ** 2)
        pyro.sample("y", dist.Normal(z, 0.7).expand([5]).to_event(1), obs=y)

    y = vector_data()
    fit = fitted(model, y)
    tree = to_arviz(fit, y, num_samples=6)
    assert list(tree["observed_data"].data_vars) == ["y"]
    np.testing.assert_allclose(log_weights(tree), -fit.blr.evaluate_loss(y), rtol=1e-10)


def test_a_plate_named_like_a_site_gets_another_dim():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("y", len(y)):
            pyro.sample("data", dist.Normal(z, 0.7), obs=y)
        with pyro.plate("draw", len(y)):
            pyro.sample("more", dist.Normal(z, 0.7), obs=y)
            pyro.deterministic("z_again", z + 0 * y)

    y = vector_data()
    tree = to_arviz(fitted(model, y), y, num_samples=3)
    assert tree["observed_data"]["data"].dims == ("y",)
    assert tree["observed_data"]["more"].dims == ("draw_dim",)

    def clash(z):
        x = pyro.sample("x", dist.Normal(0.0, 2.0))
        with pyro.plate("x_rows", len(z)), pyro.plate("z", 1, dim=-2):
            pyro.sample("z_data", dist.Normal(x, 0.7), obs=z)
            pyro.sample("x_rows_data", dist.Normal(x, 0.7), obs=z)

    tree = to_arviz(fitted(clash, y), y, num_samples=3)
    assert tree["observed_data"]["z_data"].dims == ("z", "x_rows")


def test_the_same_seed_gives_the_same_draws():
    y = vector_data()
    fit = fitted(normal_mean, y)
    first, second = (
        (pyro.set_rng_seed(3), to_arviz(fit, y, num_samples=5))[1]["posterior"]["z"].values
        for _ in range(2)
    )
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("num_samples", [0, -1, 2.5, True, None])
def test_num_samples_must_be_a_count(num_samples):
    y = vector_data()
    with pytest.raises(errors.ArgumentError, match=r"num_samples must be .* Mend: to_arviz\(fit"):
        to_arviz(fitted(normal_mean, y), y, num_samples=num_samples)


def test_only_a_fit_or_an_engine_is_taken():
    y = vector_data()
    with pytest.raises(errors.ArgumentError, match=r"not function\. Mend: to_arviz\(blr.fit"):
        to_arviz(normal_mean, y)
    blr = BLR(normal_mean, AutoNatural(normal_mean))
    with pytest.raises(errors.GuideError, match=r"has not seen the model .* Mend: call blr.fit"):
        to_arviz(blr, y)
    blr.step(y)
    assert to_arviz(blr, y, num_samples=2)["posterior"]["z"].shape == (1, 2)


def test_without_arviz_the_mend_is_printed(monkeypatch):
    y = vector_data()
    fit = fitted(normal_mean, y)
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(errors.ArgumentError, match=r"pip install pyro-blr\[arviz\]"):
        to_arviz(fit, y)


def test_a_subsampled_plate_is_refused():
    def model(y):
        z = pyro.sample("z", dist.Normal(0.0, 2.0))
        with pyro.plate("person", len(y), subsample_size=2) as index:
            pyro.sample("y", dist.Normal(z, 0.7), obs=y[index])

    y = vector_data()
    blr = BLR(model, AutoNatural(model))
    blr.step(y)
    with pytest.raises(
        errors.PlateSizeError, match=r"'y' is in plate 'person'.* Mend: .*pyro.plate"
    ):
        to_arviz(blr, y)


def test_guide_and_model_must_hold_the_same_latents():
    def model(y, extra=False, absent=False):
        z = pyro.sample("other" if absent else "z", dist.Normal(0.0, 2.0))
        if extra:
            pyro.sample("surprise", dist.Normal(0.0, 1.0))
        pyro.sample("y", dist.Normal(z, 0.7).expand([5]).to_event(1), obs=y)

    y = vector_data()
    fit = fitted(model, y)
    with pytest.raises(errors.GuideError, match="'surprise'"):
        to_arviz(fit, y, num_samples=2, extra=True)
    with pytest.raises(errors.GuideError, match=r"\['z'\] which the model did not sample"):
        to_arviz(fit, y, num_samples=2, absent=True)
