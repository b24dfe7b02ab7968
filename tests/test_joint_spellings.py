# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Spellings and shapes of a Gaussian whose covariance a latent scales: the evidence is exact."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_blr.errors import ParameterError
from tests.checks import assert_same_distribution, engine
from tests.oracles.textbook_case import student_log_prob

Y = torch.tensor([0.3, 1.9, 1.1, 0.8, 2.4, 1.3, 0.2, 1.6])
X = torch.stack([torch.linspace(-1.0, 1.0, 8), torch.linspace(0.2, 0.9, 8) ** 2, Y.cos()], -1)


def families(blr: Any) -> dict[str, str]:
    return {block.name: block.family.name for block in blr.guide.blocks}


# ------------------------------------------------------------------------------------- spellings

V = torch.tensor([[1.0, 0.3, 0.1], [0.3, 2.0, -0.2], [0.1, -0.2, 0.5]])
P, T, D = torch.linalg.inv(V), torch.linalg.cholesky(V), V.diagonal()
ZERO = torch.zeros(3)
MVN = dist.MultivariateNormal


def mvn(**covariance: Tensor) -> Any:
    return MVN(ZERO, **covariance)


#: The prior of the weights, and the noise, given the latent scale; and whether that is a variance.
SPELLINGS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any], bool]] = {
    "precision_matrix": (lambda t: mvn(precision_matrix=t * P), lambda t: t.rsqrt(), False),
    "precision indexed": (
        lambda t: mvn(precision_matrix=P * t[..., None, None]),
        lambda t: 1 / t.sqrt(),
        False,
    ),
    "covariance over tau": (
        lambda t: mvn(covariance_matrix=V / t),
        lambda t: (1 / t).sqrt(),
        False,
    ),
    "scale_tril over root": (lambda t: mvn(scale_tril=T / t.sqrt()), lambda t: t**-0.5, False),
    "covariance": (lambda s: mvn(covariance_matrix=s * V), lambda s: s.sqrt(), True),
    "precision over s2": (lambda s: mvn(precision_matrix=P / s), lambda s: s**0.5, True),
    "scale_tril times root": (
        lambda s: mvn(scale_tril=s.sqrt() * T),
        lambda s: 1 / s.rsqrt(),
        True,
    ),
}
DIAGONAL: dict[str, Callable[[Any], Any]] = {
    "to_event": lambda s: dist.Normal(ZERO, (s * D).sqrt()).to_event(1),
    "two roots": lambda s: dist.Normal(ZERO, s.sqrt() * D.sqrt()).to_event(1),
    "expand": lambda s: dist.Normal(ZERO, (s.expand(3) * D).sqrt()).to_event(1),
    "diag_embed": lambda s: MVN(ZERO, torch.diag_embed(s * D)),
    "diag": lambda s: MVN(ZERO, torch.diag(s * D)),
    "eye": lambda s: MVN(ZERO, torch.eye(3) * (s * D)),
    "diag_embed of roots": lambda s: mvn(scale_tril=torch.diag_embed((s * D).sqrt())),
    "diag_embed of precisions": lambda s: mvn(precision_matrix=torch.diag_embed(1 / (s * D))),
}


def regression_loss(prior: Any, noise: Any, is_variance: bool) -> tuple[float, dict[str, str]]:
    """The loss after one step of a regression whose weights and noise have one latent scale."""
    law = dist.InverseGamma(torch.tensor(2.0), torch.tensor(1.5))

    def model() -> None:
        scale = pyro.sample("scale", law if is_variance else dist.Gamma(2.0, 1.5))
        w = pyro.sample("w", prior(scale))
        with pyro.plate("data", 8):
            pyro.sample("y", dist.Normal(X @ w, noise(scale)), obs=Y)

    blr, _ = engine(model)
    blr.step()
    return float(blr.info.loss_after), families(blr)


def regression_evidence(covariance: Tensor) -> float:
    unit = torch.eye(8) + X @ covariance @ X.T
    return float(student_log_prob(Y, torch.tensor(4.0), torch.zeros(8), 1.5 / 2.0 * unit))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_a_scaled_matrix(spelling: str) -> None:
    loss, found = regression_loss(*SPELLINGS[spelling])
    assert list(found) == ["w+scale"]
    assert -loss == pytest.approx(regression_evidence(V), rel=1e-10)


@pytest.mark.parametrize("spelling", DIAGONAL)
def test_spellings_of_a_scaled_diagonal(spelling: str) -> None:
    loss, found = regression_loss(DIAGONAL[spelling], lambda s: s.sqrt(), True)
    assert list(found) == ["w+scale"]
    assert -loss == pytest.approx(regression_evidence(D.diag()), rel=1e-10)


# ---------------------------------------------------------------------------------------- shapes

ROWS = torch.stack([Y, Y.cos(), 2 * Y.sin()], -1)  # shape: (8, 3)


def mean_evidence(data: Tensor) -> float:
    """log p of Normals with tau ~ Gamma(2, 3) and mu ~ N(1, 1 / (0.5 tau)), closed form."""
    unit = torch.eye(len(data)) + 2.0
    return float(student_log_prob(data, torch.tensor(4.0), torch.ones(len(data)), 1.5 * unit))


def _means(tau: Any) -> Any:
    return dist.Normal(1.0, (0.5 * tau).rsqrt())


def one_for_each_of_a_plate(data: Tensor) -> None:
    with pyro.plate("groups", data.shape[1], dim=-1):
        tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
        mu = pyro.sample("mu", _means(tau))
        with pyro.plate("data", len(data), dim=-2):
            pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=data)


def one_for_each_of_an_event(data: Tensor) -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 3.0).expand([data.shape[1]]).to_event(1))
    mu = pyro.sample("mu", _means(tau).to_event(1))
    with pyro.plate("data", len(data)):
        pyro.sample("y", dist.Normal(mu, tau.rsqrt()).to_event(1), obs=data)


def one_after_the_other(data: Tensor) -> None:
    for g in pyro.plate("groups", data.shape[1]):
        tau = pyro.sample(f"tau{g}", dist.Gamma(2.0, 3.0))
        mu = pyro.sample(f"mu{g}", _means(tau))
        with pyro.plate(f"data{g}", len(data)):
            pyro.sample(f"y{g}", dist.Normal(mu, tau.rsqrt()), obs=data[:, g])


@pytest.mark.parametrize(
    "model", [one_for_each_of_a_plate, one_for_each_of_an_event, one_after_the_other]
)
@pytest.mark.parametrize("groups", [1, 3])
def test_a_law_for_each_of_several_groups(model: Any, groups: int) -> None:
    data = ROWS[:, :groups]
    blr, guide = engine(model)
    blr.step(data)
    expected = sum(mean_evidence(data[:, g]) for g in range(groups))
    assert -blr.info.loss_after == pytest.approx(expected, rel=1e-10)
    for site, latent in guide.latents.items():
        marginal = guide.marginal(site)
        assert marginal.batch_shape + marginal.event_shape == latent.site.shape


@pytest.mark.parametrize("groups", [1, 3])
def test_two_nested_plates(groups: int) -> None:
    data = ROWS[:, :groups]

    def model() -> None:
        with pyro.plate("rows", 8, dim=-2), pyro.plate("groups", groups, dim=-1):
            tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
            mu = pyro.sample("mu", _means(tau))
            pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=data)

    blr, guide = engine(model)
    blr.step()
    expected = sum(mean_evidence(x[None]) for x in data.flatten())
    assert -blr.info.loss_after == pytest.approx(expected, rel=1e-10)
    assert guide.marginal("tau").batch_shape == (8, groups)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("inner", [-1, -2])
def test_means_in_a_plate_inside_that_of_the_precision(inner: int, groups: int) -> None:
    """tau has size 1 along the inner plate, or does not know of it."""
    data = ROWS[:, :groups]  # one precision for each column (inner = -2) or row (inner = -1)
    outer = -3 - inner

    def model() -> None:
        with pyro.plate("outer", data.shape[outer], dim=outer):
            tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
            with pyro.plate("inner", data.shape[inner], dim=inner):
                mu = pyro.sample("mu", _means(tau))
                pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=data)

    blr, guide = engine(model)
    blr.step()
    size = data.shape[inner]
    unit = 3.0 * torch.eye(size)  # 1 for the noise and 2 for each datum's own mean
    lines = data if inner == -1 else data.T
    evidence = student_log_prob(lines, torch.tensor(4.0), torch.ones(size), 1.5 * unit).sum()
    assert -blr.info.loss_after == pytest.approx(float(evidence), rel=1e-10)
    assert guide.sample_posterior(2)["tau"].shape == (2, *guide.latents["tau"].site.shape)


def test_a_wishart_of_one_number_is_a_gamma() -> None:
    def by_wishart() -> None:
        L = pyro.sample("L", dist.Wishart(torch.tensor(4.0), 0.5 * torch.eye(1)))
        mu = pyro.sample("mu", MVN(torch.ones(1), precision_matrix=0.5 * L))
        with pyro.plate("data", 8):
            pyro.sample("y", MVN(mu, precision_matrix=L), obs=Y[:, None])

    blr, guide = engine(by_wishart)
    blr.step()
    assert families(blr) == {"mu+L": "NormalWishart"}
    # Wishart(4, 0.5) of one number is Gamma(2, 1).
    unit = torch.eye(8) + 2.0
    evidence = student_log_prob(Y, torch.tensor(4.0), torch.ones(8), unit / 2.0)
    assert -blr.info.loss_after == pytest.approx(float(evidence), rel=1e-10)
    assert guide.marginal("L").event_shape == (1, 1)


def test_a_scale_of_the_likelihood_counts_data_more_than_once() -> None:
    def model(scale: float, data: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(2.0, 3.0))
        mu = pyro.sample("mu", _means(tau))
        with pyro.plate("data", len(data)), poutine.scale(scale=scale):
            pyro.sample("y", dist.Normal(mu, tau.rsqrt()), obs=data)

    losses, marginals = [], []
    for scale, data in ((2.0, Y), (1.0, torch.cat([Y, Y]))):
        blr, guide = engine(model)
        blr.step(scale, data)
        losses.append(float(blr.info.loss_after))
        marginals.append({site: guide.marginal(site) for site in ("mu", "tau")})
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    for site in ("mu", "tau"):
        assert_same_distribution(marginals[0][site], marginals[1][site], 1e-12)


def test_a_singular_covariance_is_a_typed_error() -> None:
    def model() -> None:
        s2 = pyro.sample("s2", dist.InverseGamma(torch.tensor(2.0), torch.tensor(1.5)))
        w = pyro.sample("w", MVN(torch.zeros(2), covariance_matrix=s2 * torch.ones(2, 2)))
        with pyro.plate("data", 8):
            pyro.sample("y", dist.Normal(w.sum(-1), s2.sqrt()), obs=Y)

    with pyro.validation_enabled(False), pytest.raises(ParameterError, match="Mend"):
        engine(model)[0].step()
