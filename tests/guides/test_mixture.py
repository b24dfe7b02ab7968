# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The guide that is a mixture of Gaussians: what it reaches, what it says, how it is kept."""

import copy
import io
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive

from pyro_blr import BLR, diagnostics, errors, to_arviz
from pyro_blr.guides import (
    AutoNaturalLowRankMultivariateNormal,
    AutoNaturalMixture,
    AutoNaturalMultivariateNormal,
)
from pyro_blr.steps.mixture import Mixture
from pyro_blr.steps.mixture_memory import MixtureMemory

X = torch.tensor(
    [[0.5, 1.0], [-1.0, 0.3], [2.0, -0.7], [0.1, 0.9], [-0.4, -1.2], [1.3, 0.2]]
).double()
Y = torch.tensor([1.2, -0.6, 1.9, 0.8, -1.0, 1.6]).double()


def regression(x: torch.Tensor, y: torch.Tensor) -> None:
    w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
    with pyro.plate("n", len(x)):
        pyro.sample("y", dist.Normal((x * w).sum(-1), 0.5), obs=y)


def shaped(x: torch.Tensor, y: torch.Tensor | None) -> None:
    """A vector, a positive number, proportions and a plate."""
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    s = pyro.sample("s", dist.Gamma(3.0, 3.0))
    p = pyro.sample("p", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("g", 3):
        a = pyro.sample("a", dist.Normal(0.0, 0.5))
    mean = (x * w).sum(-1) + (p * a).sum(-1, keepdim=True)
    with pyro.plate("n", len(x)):
        pyro.sample("y", dist.Normal(mean, s.rsqrt()), obs=y)


def fitted(model, components, *args, seed=0, **limits):
    pyro.set_rng_seed(seed)
    guide = AutoNaturalMixture(model, components=components)
    blr = BLR(model, guide, on_sampled="ignore")
    return blr, guide, blr.fit(*args, **limits)


def coordinates(guide: AutoNaturalMixture) -> list[torch.Tensor]:
    (natural,) = guide.naturals().values()
    return [t.detach().clone() for t in natural]


# What it reaches


def test_one_component_is_the_joint_gaussian() -> None:
    _, guide, fit = fitted(regression, 1, X, Y)
    pyro.set_rng_seed(0)
    other = AutoNaturalMultivariateNormal(regression)
    expected = BLR(regression, other).fit(X, Y)
    assert fit.converged
    assert fit.losses == expected.losses
    torch.testing.assert_close(guide.marginal("w").loc, other.marginal("w").loc)
    assert guide.components == 1


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.RemovedComponentWarning")
def test_one_component_that_is_left_is_the_joint_gaussian_too() -> None:
    """By points of a mixture, whose second moments are exact, where the other is in closed form."""
    pyro.set_rng_seed(0)
    guide = AutoNaturalMixture(regression, components=2)
    blr = BLR(regression, guide)
    guide(X, Y)
    guide.set_posterior(given([1 - 1e-9, 1e-9], [[1.0, 0.5], [5.0, 5.0]]))
    assert blr.fit(X, Y, tol=1e-8).converged
    other = AutoNaturalMultivariateNormal(regression)
    expected = BLR(regression, other).fit(X, Y, tol=1e-10)
    assert guide.components == 1
    assert blr.evaluate_loss(X, Y) == pytest.approx(expected.losses[-1], abs=1e-8)
    loc, cholesky = other.joint()
    own = guide.get_posterior().component_distribution
    torch.testing.assert_close(own.loc[0], loc, atol=1e-8, rtol=0)
    torch.testing.assert_close(own.covariance_matrix[0], cholesky @ cholesky.mT)


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.RemovedComponentWarning")
def test_a_gaussian_posterior_is_that_of_any_number_of_components() -> None:
    evidence = -BLR(regression, AutoNaturalMultivariateNormal(regression)).fit(X, Y).losses[-1]
    blr, guide, fit = fitted(regression, 3, X, Y)
    assert fit.converged
    assert -blr.evaluate_loss(X, Y) == pytest.approx(evidence, abs=0.01)
    precision = X.mT @ X / 0.25 + torch.eye(2) / 4
    mean = torch.linalg.solve(precision, X.mT @ Y / 0.25)
    torch.testing.assert_close(guide.get_posterior().mean, mean, atol=0.02, rtol=0)


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.RemovedComponentWarning")
def test_masks_scales_and_temperatures_count() -> None:
    def model(x: torch.Tensor, y: torch.Tensor) -> None:
        with poutine.scale(scale=1.5):
            w = pyro.sample("w", dist.Normal(0.0, 2.0).expand([2]).to_event(1))
        with pyro.plate("n", len(x)), poutine.mask(mask=y > -0.8):
            pyro.sample("y", dist.Normal((x * w).sum(-1), 0.5), obs=y)

    exact = AutoNaturalMultivariateNormal(model)
    loss = BLR(model, exact, temperature=2.0).fit(X, Y).losses[-1]
    pyro.set_rng_seed(0)
    blr = BLR(model, AutoNaturalMixture(model, components=2), temperature=2.0)
    assert blr.fit(X, Y).converged
    assert blr.evaluate_loss(X, Y) == pytest.approx(loss, abs=0.01)


def test_labels_that_switch_have_two_modes() -> None:
    """Discrete latents are summed out; by symmetry a second component is worth log 2."""

    def model(y: torch.Tensor) -> None:
        with pyro.plate("classes", 2):
            mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
        with pyro.plate("data", len(y)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.5])))
            pyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)

    y = torch.tensor([-3.1, -2.7, -3.5, 2.2, 3.4, 3.0, 2.9]).double()
    one = fitted(model, 1, y)[2].losses[-1]
    blr, guide, fit = fitted(model, 2, y, seed=1)
    assert fit.converged
    assert blr.explain(y).summed_out == ("z",)
    means = guide.get_posterior().component_distribution.loc
    torch.testing.assert_close(means[0], means[1].flip(0), atol=0.1, rtol=0)
    assert (means[0] - means[1]).abs().min() > 5
    # One Gaussian has the looser bound of variational EM, of a tenth of a nat or less.
    assert 0.65 < one - blr.evaluate_loss(y) < 0.85


def funnel() -> None:
    v = pyro.sample("v", dist.Normal(0.0, 2.0))
    pyro.sample("x", dist.Normal(0.0, (0.5 * v).exp()))


def laplace(x: torch.Tensor, y: torch.Tensor) -> None:
    w = pyro.sample("w", dist.Laplace(0.0, 0.3).expand([2]).to_event(1))
    with pyro.plate("n", len(x)):
        pyro.sample("y", dist.Normal((x * w).sum(-1), 2.0), obs=y)


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.RemovedComponentWarning")
def test_a_funnel_is_nearer_with_more_components() -> None:
    losses = {}
    for components in (1, 5):
        blr, _, _ = fitted(funnel, components, max_steps=30)
        losses[components] = blr.evaluate_loss()
    assert -0.01 < losses[5] < 0.5 * losses[1]  # the evidence is 1


@pytest.mark.filterwarnings("ignore::pyro_blr.errors.RemovedComponentWarning")
def test_a_saddle_is_not_certified_but_left() -> None:
    """A ring with two modes to the left and right, two components held apart above and below."""

    def ring() -> None:
        z = pyro.sample("z", dist.ImproperUniform(dist.constraints.real_vector, (), (2,)))
        radius, (x, y) = z.norm(dim=-1), z.unbind(-1)
        pyro.factor("ring", -2 * (radius - 3) ** 2 + (x**2 - y**2) / (radius**2 + 0.1))

    pyro.set_rng_seed(0)
    guide = AutoNaturalMixture(ring, components=2)
    guide()
    means = torch.tensor([[0.0, 2.56], [0.0, -2.56]]).double()
    normal = dist.MultivariateNormal(means, torch.tensor([2.57, 0.3345]).double().diag())
    guide.set_posterior(dist.MixtureSameFamily(dist.Categorical(torch.ones(2).double()), normal))
    blr = BLR(ring, guide, num_draws=256)
    start = blr.evaluate_loss()
    fit = blr.fit(tol=0.1, max_steps=25)  # steps are short after 8
    assert not fit.converged and blr.evaluate_loss() < start - 0.5


def test_ways_out_that_lead_nowhere_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of points may look like a saddle: q goes back where it was, and is certified there."""
    asked = []

    def aside(state, *_: object) -> Mixture:
        asked.append(state.elbo)
        log_weights, means, precisions = state.mixture.coordinates
        return Mixture((log_weights, means + 0.1, precisions), state.mixture.noise)

    monkeypatch.setattr("pyro_blr.rules.mixture.way_out", aside)
    fit = fitted(regression, 2, X, Y, max_steps=100)[2]
    assert len(asked) == 1
    assert fit.converged


def test_kinks_of_a_laplace_prior() -> None:
    """No Hessian at a point says anything of the prior, and q is right for it."""
    line = torch.linspace(-4, 5, 1201, dtype=torch.float64)
    w = torch.stack(torch.meshgrid(line, line, indexing="ij"), -1).reshape(-1, 2)
    prior = dist.Laplace(torch.zeros(2).double(), 0.3).to_event(1)
    log_p = prior.log_prob(w) + dist.Normal(w @ X.mT, 2.0).log_prob(Y).sum(-1)
    evidence = float(log_p.logsumexp(0) + 2 * (line[1] - line[0]).log())
    one = fitted(laplace, 1, X, Y, max_steps=60)[0].evaluate_loss(X, Y)
    four = fitted(laplace, 4, X, Y, max_steps=30)[0].evaluate_loss(X, Y)
    assert -evidence - 0.005 < four < one
    assert four + evidence < 0.5 * (one + evidence)


# What it says


@pytest.fixture(scope="module")
def shapes():
    blr, guide, fit = fitted(shaped, 3, X, Y, max_steps=8)
    return blr, guide, fit


def test_marginals_and_quantiles_are_those_of_draws(shapes) -> None:
    _, guide, _ = shapes
    pyro.set_rng_seed(1)
    draws = guide.sample_posterior(20_000)
    levels = [0.1, 0.5, 0.9]
    quantiles = guide.quantiles(levels)
    for name in ("w", "s", "a"):  # no quantile of one element of a simplex is a simplex's
        expected = draws[name].quantile(torch.tensor(levels).double(), 0)
        spread = draws[name].std(0)
        assert ((quantiles[name] - expected).abs() < 0.05 * spread).all(), name
        torch.testing.assert_close(guide.median()[name], quantiles[name][1])
    for name, value in draws.items():
        law = guide.marginal(name)
        assert law.sample().shape == value.shape[1:]
        own = law.sample((20_000,))
        assert ((own.mean(0) - value.mean(0)).abs() < 0.06 * value.std(0)).all(), name
    assert guide.get_posterior().event_shape == (8,)


def test_density_of_draws_serves_diagnostics_and_arviz(shapes) -> None:
    blr, guide, fit = shapes
    pyro.set_rng_seed(2)
    report = diagnostics.report(fit, X, Y, num_samples=500)
    assert report.khat < 0.7
    exported = to_arviz(fit, X, Y, num_samples=20)
    assert exported["posterior"]["a"].shape == (1, 20, 3)
    elbo = exported["sample_stats"]["log_p"] - exported["sample_stats"]["log_q"]
    assert abs(float(elbo.mean()) + blr.evaluate_loss(X, Y)) < 1.0
    predicted = Predictive(shaped, guide=guide, num_samples=5)(X, None)
    assert predicted["y"].shape == (5, 6)
    for table in (guide, guide.blocks[0], blr.explain(X, Y), fit):
        assert "<table" in table._repr_html_()


@pytest.mark.parametrize("kind", [AutoNaturalMixture, AutoNaturalLowRankMultivariateNormal])
def test_laws_that_were_given_out_stay_as_they_were(kind) -> None:
    guide = kind(shaped)
    blr = BLR(shaped, guide, on_sampled="ignore")
    blr.step(X, Y)
    laws = [guide.marginal(name) for name in ("w", "s", "a")]
    if kind is AutoNaturalMixture:
        laws.append(guide.get_posterior())
    at = [law.sample() for law in laws]
    densities = [law.log_prob(z) for law, z in zip(laws, at, strict=True)]
    blr.step(X, Y)  # which writes in place
    for law, z, density in zip(laws, at, densities, strict=True):
        assert torch.equal(law.log_prob(z), density)


def test_explain_and_info(shapes) -> None:
    blr, _, fit = shapes
    explanation = blr.explain(X, Y)
    assert explanation.blocks == (("w", "s", "p", "a"),)
    assert explanation.families == ("NormalMixture",)
    assert explanation["y"].tier == "sampled"
    assert "mixture of 3 Gaussians" in explanation.notes[0]
    assert blr.info.loss == fit.losses[-1]
    assert fit.residual < 1 and fit.gradients > 0
    assert "not certified" in fit.reason
    assert blr.trace_report(X, Y, max_steps=1).steps == 1


# How it is kept


def test_a_run_goes_on_bit_for_bit() -> None:
    blr, guide, _ = fitted(regression, 2, X, Y, max_steps=2)
    saved = io.BytesIO()
    torch.save(blr.state_dict(), saved)
    copied = copy.deepcopy(blr)
    expected = [blr.step(X, Y) for _ in range(3)], coordinates(guide)
    assert [copied.step(X, Y) for _ in range(3)] == expected[0]
    saved.seek(0)
    pyro.clear_param_store()
    other = AutoNaturalMixture(regression, components=2)
    resumed = BLR(regression, other, on_sampled="ignore")
    resumed.load_state_dict(torch.load(saved, weights_only=True))
    assert [resumed.step(X, Y) for _ in range(3)] == expected[0]
    assert all(map(torch.equal, coordinates(other), expected[1]))


def test_pickles_and_saved_stores(tmp_path) -> None:
    blr, guide, _ = fitted(regression, 2, X, Y, max_steps=2)
    again = pickle.loads(pickle.dumps(blr))
    assert again.step(X, Y) == blr.step(X, Y)
    pyro.get_param_store().save(tmp_path / "store")
    kept = coordinates(guide)
    pyro.clear_param_store()
    pyro.get_param_store().load(tmp_path / "store")
    loaded = AutoNaturalMixture(regression, components=2)
    loaded(X, Y)
    assert all(map(torch.equal, coordinates(loaded), kept))


def given(weights: list[float], means: list[list[float]]):
    components = dist.MultivariateNormal(torch.tensor(means).double(), torch.eye(2).double())
    return dist.MixtureSameFamily(dist.Categorical(torch.tensor(weights).double()), components)


def test_a_component_that_dies_is_removed_and_said_to_be() -> None:
    pyro.set_rng_seed(0)
    guide = AutoNaturalMixture(regression, components=3)
    blr = BLR(regression, guide)
    guide(X, Y)
    guide.set_posterior(given([0.5, 0.5 - 1e-9, 1e-9], [[1.0, 0.5], [0.0, 0.0], [5.0, 5.0]]))
    with pytest.warns(errors.RemovedComponentWarning, match="1 component.*2 are left"):
        blr.step(X, Y)
    assert guide.components == 2
    assert coordinates(guide)[0].exp().sum() == pytest.approx(1)
    fit = blr.fit(X, Y, max_steps=2)
    assert "2 of 3 components are left" in fit.reason
    assert "2 of 3 components are left" in blr.explain(X, Y).notes[0]
    fewer = AutoNaturalMixture(regression, components=3)
    store = pyro.get_param_store().get_state()
    pyro.clear_param_store()
    pyro.get_param_store().set_state(copy.deepcopy(store))
    fewer(X, Y)
    assert fewer.components == 2
    assert all(map(torch.equal, coordinates(fewer), coordinates(guide)))
    resumed = BLR(regression, fewer)
    resumed.load_state_dict(blr.state_dict())
    assert resumed.step(X, Y) == blr.step(X, Y)
    assert fewer.components == 2


def test_the_memory_of_steps_is_all_in_its_state() -> None:
    memory = MixtureMemory()
    memory.renew(64, 7)
    memory.keep_sizes(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 1.0]))
    memory.without(torch.tensor([True, False]))
    other = MixtureMemory()
    other.load_state(memory.state())
    assert other.state() == memory.state()
    assert memory.removed == 1
