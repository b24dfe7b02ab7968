# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Chains of Gaussians: exact where a Kalman smoother is, and the same q as a full covariance.

The smoother and the dense Gaussian of `tests/oracles/linear_gaussian` know nothing of the package.
Where no closed form is, the oracle is the package's own guide with a full covariance.
"""

import copy
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNaturalMultivariateNormal
from pyro_blr.lifting.chain_blocks import ChainBlock
from tests import chain_models as models
from tests.checks import engine
from tests.oracles.linear_gaussian import Smoothed, dense_gaussian, kalman_smoother

KINDS = pytest.mark.parametrize("model", models.SPELLINGS, ids=lambda m: m.__name__)


def chain_of(guide: Any) -> ChainBlock:
    chains = [b for b in guide.blocks if isinstance(b, ChainBlock)]
    assert len(chains) == 1, [type(b).__name__ for b in guide.blocks]
    return chains[0]


def assert_smoothed(guide: Any, expected: Smoothed, atol: float = 1e-8) -> None:
    """Means, covariances, and covariances of neighbours, of a chain that is all of q."""
    block = chain_of(guide)
    mean, (own, beside) = block.family.moments(guide.naturals()[block])  # type: ignore[attr-defined]
    torch.testing.assert_close(mean, expected.mean, rtol=0, atol=atol)
    torch.testing.assert_close(own, expected.cov, rtol=0, atol=atol)
    torch.testing.assert_close(beside, expected.beside, rtol=0, atol=atol)


@KINDS
def test_exact_posterior_and_evidence(model):
    data = models.state_space(150, missing=[0, 3, *range(40, 60), 149])
    expected = kalman_smoother(data)
    blr, guide = engine(model)
    blr.step(data)
    assert_smoothed(guide, expected)
    assert blr.evaluate_loss(data) == pytest.approx(-expected.log_evidence, abs=1e-8)
    assert blr.fit(data).converged


@KINDS
@pytest.mark.parametrize("T", [1, 2, 3, 5])
def test_short_sequences(model, T):
    data = models.state_space(T, missing=[0])
    expected = kalman_smoother(data)
    blr, guide = engine(model)
    blr.step(data)
    assert blr.evaluate_loss(data) == pytest.approx(-expected.log_evidence, abs=1e-8)
    if model is models.one_event:
        torch.testing.assert_close(guide.median()["z"], expected.mean, rtol=0, atol=1e-8)


@KINDS
def test_all_steps_missing(model):
    data = models.state_space(140, missing=range(140))
    blr, guide = engine(model)
    blr.step(data)
    assert_smoothed(guide, kalman_smoother(data))
    assert blr.evaluate_loss(data) == pytest.approx(0.0, abs=1e-8)


def test_the_two_oracles_agree():
    data = models.state_space(12, D=3, missing=[2, 3])
    one, other = kalman_smoother(data), dense_gaussian(data)
    for a, b in zip(vars(one).values(), vars(other).values(), strict=True):
        torch.testing.assert_close(torch.as_tensor(a), torch.as_tensor(b), rtol=0, atol=1e-10)


def test_each_sequence_of_a_batch_is_its_own():
    y = torch.stack([models.smooth_series(260, seed) for seed in range(12)])
    blr, guide = engine(models.sequences)
    blr.step(y)
    assert chain_of(guide).batch_shape == (12,)
    alone = 0.0
    for i in (0, 7):
        pyro.clear_param_store()
        each = BLR(models.sequences, one := AutoNaturalMultivariateNormal(models.sequences))
        each.step(y[i : i + 1])
        torch.testing.assert_close(guide.median()["z"][i], one.median()["z"][0], rtol=0, atol=1e-9)
        alone += each.evaluate_loss(y[i : i + 1])
    both, _ = engine(models.sequences)
    both.step(y[[0, 7]])
    assert both.evaluate_loss(y[[0, 7]]) == pytest.approx(alone, abs=1e-8)


@pytest.mark.parametrize("T", [100, 300])
@pytest.mark.parametrize("kind", ["poisson", "bernoulli"])
def test_other_emissions_equal_a_full_covariance(kind, T):
    """The optimum of CVI with a dense Gaussian, from the same model."""
    model = models.poisson_walk if kind == "poisson" else models.bernoulli_walk
    y = models.counts(T)[kind == "bernoulli"]
    blr, guide = engine(model)
    blr.fit(y, tol=1e-13)
    pyro.clear_param_store()
    other = AutoNaturalMultivariateNormal(model, structure="dense")
    dense = BLR(model, other)
    dense.fit(y, tol=1e-13)
    assert blr.evaluate_loss(y) == pytest.approx(dense.evaluate_loss(y), abs=1e-6)
    torch.testing.assert_close(guide.median()["z"], other.median()["z"], rtol=0, atol=1e-6)
    if T == 300:
        chain_of(guide)
        scale = other.joint()[1].square().sum(-1).sqrt()
        torch.testing.assert_close(guide.marginal("z").stddev, scale, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["poisson", "bernoulli"])
def test_ten_thousand_steps(kind):
    """A dense precision of them would take 0.8 GB, five times, and half an hour a step."""
    model = models.poisson_walk if kind == "poisson" else models.bernoulli_walk
    y = models.counts(10_000)[kind == "bernoulli"]
    blr, guide = engine(model)
    start = time.process_time()
    fit = blr.fit(y, tol=1e-6)
    assert fit.converged, fit.reason
    assert chain_of(guide).length == 10_000
    assert time.process_time() - start < 60


def test_no_matrix_of_all_times():
    """200000 times: one dense precision would take 320 GB."""
    y = models.smooth_series(200_000).unsqueeze(0)
    blr, guide = engine(models.sequences)
    blr.step(y)
    assert chain_of(guide).length == 200_000


@pytest.mark.parametrize("kind", ["noise", "transition"])
def test_unknown_parameters_are_a_structured_mean_field(kind):
    y = models.smooth_series(400)
    model = models.unknown_noise
    if kind == "transition":
        model, y = models.unknown_transition, torch.stack([y, y.flip(0)], -1)
    blr, guide = engine(model)
    losses = [blr.step(y) for _ in range(15)]
    assert all(after <= before + 1e-9 * abs(before) for before, after in pairwise(losses))
    fit = blr.fit(y)
    assert fit.converged, fit.reason
    chain_of(guide)


def test_unknown_noise_equals_a_dense_block(monkeypatch):
    """The same mean field with the states in one matrix, which a shorter series gets."""
    y = models.smooth_series(300)
    blr, guide = engine(models.unknown_noise)
    blr.fit(y, tol=1e-12)
    chain_of(guide)
    monkeypatch.setattr("pyro_blr.energy.chains.DENSE_NUMBERS", 1e9)
    dense, other = engine(models.unknown_noise)
    dense.fit(y, tol=1e-12)
    assert not any(isinstance(b, ChainBlock) for b in other.blocks)
    assert blr.evaluate_loss(y) == pytest.approx(dense.evaluate_loss(y), abs=1e-7)
    for name in ("q", "r", "z"):
        torch.testing.assert_close(guide.median()[name], other.median()[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["normal", "bernoulli"])
def test_observations_between_times(kind, monkeypatch):
    """Each depends on two neighbours: exactly, or by quadrature of their weighed sum."""
    y = models.smooth_series(600)
    y = y if kind == "normal" else (y > 0).double()

    def model(y: Tensor) -> None:
        models.between_times(y, kind)

    blr, guide = engine(model)
    blr.fit(y, tol=1e-12)
    assert chain_of(guide).length == 300
    monkeypatch.setattr("pyro_blr.energy.chains.DENSE_NUMBERS", 1e9)
    dense, other = engine(model)
    dense.fit(y, tol=1e-12)
    assert blr.evaluate_loss(y) == pytest.approx(dense.evaluate_loss(y), abs=1e-8)
    torch.testing.assert_close(guide.median()["z"], other.median()["z"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("model", models.ALIKE, ids=lambda m: m.__name__)
def test_chains_and_dense_blocks_have_the_same_optimum(model, monkeypatch):
    y = models.smooth_series(24)
    found = []
    for numbers in (1.0, 1e9):
        monkeypatch.setattr("pyro_blr.energy.chains.DENSE_NUMBERS", numbers)
        blr, guide = engine(model)
        fit = blr.fit(y, tol=1e-12)
        assert fit.converged, fit.reason
        found.append((guide, blr.evaluate_loss(y)))
    (guide, loss), (dense, expected) = found
    chain_of(guide)
    assert not any(isinstance(b, ChainBlock) for b in dense.blocks)
    assert loss == pytest.approx(expected, abs=1e-8)
    for name, value in guide.median().items():
        torch.testing.assert_close(value, dense.median()[name], rtol=0, atol=1e-5)


def test_em_is_the_kalman_smoothers():
    """At the parameters that EM finds the evidence is the filter's, and largest."""
    data = models.state_space(300, D=1, E=1)

    def model(y: Tensor) -> None:
        slope = pyro.param("slope", torch.tensor(0.5))
        q = pyro.param("q", torch.tensor(1.0), constraint=dist.constraints.positive)
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([len(y)]).mask(False).to_event(1))
        pyro.sample("first", dist.Normal(z[0], 1.0), obs=torch.tensor(0.0))
        pyro.sample("walk", dist.Normal(slope * z[:-1], q).to_event(1), obs=z[1:])
        pyro.sample("y", dist.Normal(z, 0.7).to_event(1), obs=y)

    y = models.smooth_series(300) + 0.7 * torch.randn(300)
    blr, guide = engine(model, params="em")
    fit = blr.fit(y, tol=1e-9)
    assert fit.converged, fit.reason
    chain_of(guide)

    def evidence(slope: Tensor, q: Tensor) -> float:
        known = replace(
            data,
            first_mean=torch.zeros(1),
            first_cov=torch.eye(1),
            transition=slope.reshape(1, 1),
            inputs=torch.zeros(299, 1),
            noise=q.square().reshape(1, 1),
            emission=torch.eye(1),
            error=0.49 * torch.eye(1),
            y=y.unsqueeze(-1),
        )
        return kalman_smoother(known).log_evidence

    slope, q = (pyro.param(n).detach() for n in ("slope", "q"))
    best = evidence(slope, q)
    assert blr.evaluate_loss(y) == pytest.approx(-best, abs=1e-8)
    for step in (1e-2, -1e-2):
        assert evidence(slope + step, q) < best
        assert evidence(slope, q * (1 + step)) < best


def test_a_gaussian_hmm_with_unknown_noise():
    """Its states are integrated out at draws; q over the precision is within its family's gap."""
    y = models.smooth_series(40)
    blr, guide = engine(models.gaussian_hmm, discrete="marginal", on_sampled="ignore")
    fit = blr.fit(y)
    assert fit.converged, fit.reason
    one, data = torch.eye(1), models.state_space(40, D=1, E=1)
    # Pyro's initial law is of the state before the first transition.
    logs = torch.linspace(-3.0, 5.0, 161)
    each = [
        kalman_smoother(
            replace(
                data,
                first_mean=torch.zeros(1),
                first_cov=(100 + (-u).exp()) * one,
                transition=one,
                inputs=torch.zeros(39, 1),
                noise=(-u).exp() * one,
                emission=one,
                error=0.25 * one,
                y=y.unsqueeze(-1),
            )
        ).log_evidence
        for u in logs
    ]
    prior = dist.Gamma(3.0, 1.0).log_prob(logs.exp()) + logs
    joint = torch.tensor(each) + prior
    evidence = float(torch.logsumexp(joint, 0) + (logs[1] - logs[0]).log())
    assert -0.02 < evidence + blr.evaluate_loss(y) < 0.1
    mean = float((torch.softmax(joint, 0) * logs.exp()).sum())
    assert float(guide.marginal("q").mean) == pytest.approx(mean, rel=0.05)


def test_products_beyond_neighbours_are_no_chain():
    y = models.smooth_series(300)
    blr, guide = engine(models.second_order)
    blr.step(y)
    assert [type(b).__name__ for b in guide.blocks] == ["Block"]
    assert blr.fit(y).converged


def test_a_precision_that_scales_everything_joins_its_gaussian():
    """Exact as one Normal-Gamma law, which a chain beside the precision would not be."""

    def model(y: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
        z = pyro.sample("z", dist.Normal(0.0, tau**-0.5).expand([len(y)]).to_event(1))
        pyro.sample("walk", dist.Normal(z[:-1], tau**-0.5).to_event(1), obs=z[1:])
        pyro.sample("y", dist.Normal(z, tau**-0.5).to_event(1), obs=y)

    y = models.smooth_series(300)
    blr, guide = engine(model)
    blr.step(y)
    assert [b.family.name for b in guide.blocks] == ["NormalGamma"]


def test_a_global_latent_beside_a_long_chain_is_told():
    def model(y: Tensor) -> None:
        slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
        x = torch.linspace(-1, 1, len(y))
        with pyro.plate("time", len(y)):
            z = pyro.sample("z", dist.Normal(0.0, 10.0))
            pyro.sample("y", dist.Normal(z + slope * x, 0.5), obs=y)
        with pyro.plate("steps", len(y) - 1):
            pyro.sample("walk", dist.Normal(z[:-1], 0.3), obs=z[1:])

    y = models.smooth_series(1500)
    blr, guide = engine(model)
    blr.step(y)
    assert chain_of(guide).length == 1500
    assert "they stay apart" in str(blr.explain(y))


def test_what_a_guide_says_and_keeps():
    y = models.smooth_series(300)
    blr, guide = engine(models.unknown_noise)
    for _ in range(3):
        blr.step(y)
    copied, state = copy.deepcopy(guide), blr.state_dict()
    after = [blr.step(y) for _ in range(2)]
    resumed, again = engine(models.unknown_noise)
    resumed.load_state_dict(state)
    assert [resumed.step(y) for _ in range(2)] == after
    assert chain_of(again).length == chain_of(copied).length == 300
    assert "a chain of 300 times" in str(blr.explain(y))
    assert guide(y)["z"].shape == (300,)
    assert guide.quantiles([0.1, 0.9])["z"].shape == (2, 300)
    for parallel in (False, True):
        drawn = Predictive(models.unknown_noise, guide=guide, num_samples=5, parallel=parallel)(y)
        assert drawn["z"].shape == (5, 300)


def test_draws_are_correlated_as_the_chain_is():
    data = models.state_space(130)
    blr, guide = engine(models.plate_of_times)
    blr.step(data)
    expected = kalman_smoother(data)
    drawn = guide.sample_posterior(20_000)["z"]
    centred = drawn - drawn.mean(0)
    beside = torch.einsum("nti,ntj->tij", centred[:, :-1], centred[:, 1:]) / len(drawn)
    scale = expected.cov.diagonal(dim1=-2, dim2=-1).sqrt()
    noise = scale[:-1, :, None] * scale[1:, None, :] * 2**0.5 / len(drawn) ** 0.5
    assert bool(((beside - expected.beside).abs() < 5 * noise).all())


@pytest.fixture
def single() -> Iterator[None]:
    """float32 as the default dtype."""
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


@pytest.mark.usefixtures("single")
def test_float32_models():
    y = models.smooth_series(300).float()
    blr, guide = engine(models.unknown_noise)
    fit = blr.fit(y, tol=1e-4)
    assert fit.converged, fit.reason
    assert chain_of(guide).length == 300
    assert guide.marginal("z").mean.dtype == torch.float32


def test_sequences_of_a_subsample():
    y = torch.stack([models.smooth_series(90, seed) for seed in range(20)])

    def model(y: Tensor) -> None:
        q = pyro.sample("q", dist.Gamma(2.0, 2.0))
        with pyro.plate("sequences", len(y), subsample_size=5) as rows:
            z = pyro.sample("z", dist.Normal(0.0, 10.0).expand([y.shape[1]]).to_event(1))
            scale = q.unsqueeze(-1) ** -0.5
            pyro.sample("walk", dist.Normal(z[..., :-1], scale).to_event(1), obs=z[..., 1:])
            pyro.sample("y", dist.Normal(z, 0.5).to_event(1), obs=y[rows])

    blr, guide = engine(model)
    losses = [blr.step(y) for _ in range(60)]
    assert chain_of(guide).batch_shape == (20,)
    assert sum(losses[-10:]) < sum(losses[:10])
