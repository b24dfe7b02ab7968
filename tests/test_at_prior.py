# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What else than the values of a process may be at its prior given the other latents."""

from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor
from torch.distributions import kl_divergence

import pyro_blr
from pyro_blr import BLR, errors
from pyro_blr.guides import AutoNatural
from tests.sparse_gp_models import data, fixed, inducing, one_step, posterior, projected, rbf, white


def test_any_likelihood_of_values_at_their_prior() -> None:
    """Counts have a closed form; of a scale that is random its expectation is taken."""
    X, y = data(30)
    Z, kernel = inducing(), fixed(rbf())
    counts = y.round().abs()

    def poisson(X: Tensor, y: Tensor) -> None:
        _, W, variance = projected(kernel, X, Z)
        u = white(Z)
        with pyro.plate("data", len(y)):
            f = pyro.sample("f", dist.Normal(W @ u, variance.sqrt()))
            pyro.sample("y", dist.Poisson(f.exp()), obs=y)

    blr = BLR(poisson, AutoNatural(poisson, at_prior=["f"]))
    blr.fit(X, counts)
    law = posterior(blr)
    _, W, variance = projected(kernel, X, Z)
    spread = variance + ((W @ law.covariance_matrix) * W).sum(-1)
    mean = W @ law.mean
    fit = (counts * mean - (mean + spread / 2).exp() - torch.lgamma(counts + 1)).sum()
    prior = torch.distributions.MultivariateNormal(torch.zeros(8), torch.eye(8))
    assert blr.explain(X, counts)["y"].tier == "exact"
    loss = blr.evaluate_loss(X, counts)
    assert loss == pytest.approx(float(kl_divergence(law, prior) - fit), abs=1e-9)

    def scaled(y: Tensor) -> None:
        tau = pyro.sample("tau", dist.Gamma(torch.tensor(3.0), 2.0))
        with pyro.plate("data", len(y)):
            f = pyro.sample("f", dist.Normal(torch.tensor(0.0), tau.rsqrt()))
            pyro.sample("y", dist.Normal(f, 0.5), obs=y)

    own = BLR(scaled, AutoNatural(scaled, at_prior=["f"]))
    own.step(y)
    assert own.explain(y)["y"].tier in ("exact", "quadrature")


def test_a_sampled_likelihood_of_values_at_their_prior() -> None:
    """Three classes: a softmax of three values a datum is at draws, of the noise as well."""
    X, y = data(40)
    Z, kernel = inducing(6), fixed(rbf())
    classes = (y > -0.5).long() + (y > 0.5).long()

    def model(X: Tensor, y: Tensor) -> None:
        _, W, variance = projected(kernel, X, Z)
        u = pyro.sample("u", dist.Normal(torch.zeros(6, 3), 1.0).to_event(2))
        with pyro.plate("data", len(X)):
            f = pyro.sample("f", dist.Normal(W @ u, variance.sqrt()[:, None]).to_event(1))
            pyro.sample("y", dist.Categorical(logits=f), obs=y)

    blr = BLR(model, AutoNatural(model, at_prior=["f"]), on_sampled="ignore", num_draws=256)
    for _ in range(4):
        blr.step(X, classes)
    assert blr.explain(X, classes)["y"].tier == "sampled"
    loss = blr.evaluate_loss(X, classes)
    pyro.set_rng_seed(0)
    law = posterior(blr)
    _, W, variance = projected(kernel, X, Z)
    u = law.sample((4000,)).reshape(4000, 6, 3)
    f = W @ u + variance.sqrt()[:, None] * torch.randn(4000, 40, 3)
    each = dist.Categorical(logits=f).log_prob(classes).sum(-1)
    prior = torch.distributions.MultivariateNormal(torch.zeros(18), torch.eye(18))
    expected = float(kl_divergence(law, prior) - each.mean())
    assert loss == pytest.approx(expected, abs=6 * float(each.std()) / 256**0.5)


def pair(y: Tensor) -> None:
    u = pyro.sample("u", dist.Normal(torch.tensor(0.0), 1.0))
    with pyro.plate("data", len(y)):
        f = pyro.sample("f", dist.Normal(u, 1.0))
        g = pyro.sample("g", dist.Normal(f, 0.5))
        pyro.sample("y", dist.Normal(g, 0.5), obs=y)


def test_values_of_values() -> None:
    """g given f, f given u: both at their prior, or one of them."""
    y = torch.tensor([0.3, -0.4, 1.0])
    _, both = one_step(pair, y, at_prior=("f", "g"))
    # E log N(y | u + e1 + e2, 0.5), the noise integrated: N(y | u, 0.5) less its variance's cost.
    precision = 1 + 3 / 0.25
    mean, spread = float(y.sum()) / 0.25 / precision, 1 / precision
    fit = dist.Normal(mean, 0.5).log_prob(y).sum() - 3 * 0.5 * (spread + 1 + 0.25) / 0.25
    kl = kl_divergence(
        torch.distributions.Normal(mean, spread**0.5), torch.distributions.Normal(0.0, 1.0)
    )
    assert both == pytest.approx(float(kl - fit), abs=1e-9)
    _, one = one_step(pair, y, at_prior=("g",))
    _, none = one_step(pair, y)
    assert none < one < both


def test_several_classes_settle_in_a_few_steps() -> None:
    """More noise than draws match: what steps move is matched, so that they do not wander."""
    X, Z = torch.linspace(-2, 2, 20)[:, None], torch.linspace(-2, 2, 5)[:, None]
    classes = (X[:, 0] > 0).long() + (X[:, 0] > 1).long()
    _, W, variance = projected(fixed(rbf()), X, Z)

    def model(y: Any = None) -> None:
        u = pyro.sample("u", dist.Normal(torch.zeros(3, 5), 1.0).to_event(2))
        with pyro.plate("data", len(X)):
            f = pyro.sample("f", dist.Normal(W @ u.mT, variance.sqrt()[:, None]).to_event(1))
            pyro.sample("y", dist.Categorical(logits=f), obs=y)

    for seed in range(3):
        pyro.set_rng_seed(seed)
        pyro.clear_param_store()
        blr = BLR(model, AutoNatural(model, at_prior=["f"]), on_sampled="ignore")
        fit = blr.fit(classes, max_steps=12)
        assert fit.converged


def test_bad_input() -> None:
    for wrong in (None, 3):
        with pytest.raises(errors.ArgumentError, match="sequence of names"):
            AutoNatural(pair, at_prior=wrong)  # type: ignore[arg-type]
    y = torch.tensor([0.3, -0.4, 1.0])
    with pytest.raises(errors.ArgumentError, match="sequence of names"):
        AutoNatural(pair, at_prior="f")
    with pytest.raises(errors.ArgumentError, match=r"'h'.*has"):
        BLR(pair, AutoNatural(pair, at_prior=["h"])).step(y)
    with pytest.raises(errors.ArgumentError, match="family"):
        AutoNatural(pair, at_prior=["f"], families={"f": pyro_blr.families.Normal})
    with pytest.raises(errors.NoLatentError, match="at_prior"):
        BLR(pair, AutoNatural(pair, at_prior=["u", "f", "g"])).step(y)

    def heavy(y: Tensor) -> None:
        u = pyro.sample("u", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(y)):
            f = pyro.sample("f", dist.StudentT(3.0, u, 1.0))
            pyro.sample("y", dist.Normal(f, 0.5), obs=y)

    with pytest.raises(errors.GuideError, match=r"StudentT.*Mend"):
        BLR(heavy, AutoNatural(heavy, at_prior=["f"])).step(y)

    def mixed(y: Tensor) -> None:
        u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(y)):
            k = pyro.sample("k", dist.Categorical(torch.ones(2)))
            pyro.sample("y", dist.Normal(u[k], 0.5), obs=y)

    with pytest.raises(errors.GuideError, match="Categorical"):
        BLR(mixed, AutoNatural(mixed, at_prior=["k"])).step(y)

    def negative(y: Tensor) -> None:
        u = pyro.sample("u", dist.Normal(torch.tensor(0.0), 1.0))
        with pyro.plate("data", len(y)):
            f = pyro.sample("f", dist.Normal(u, torch.tensor([0.1, -0.1, 0.2])))
            pyro.sample("y", dist.Normal(f, 0.5), obs=y)

    with pytest.raises(errors.BLRError, match="'f'"):
        BLR(negative, AutoNatural(negative, at_prior=["f"])).step(y)
