# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Sparse Gaussian processes in plain Pyro: a site u, and kernels of ``pyro.contrib.gp``."""

from collections.abc import Callable
from math import pi
from typing import Any

import numpy as np
import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Predictive
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import logsigmoid

import pyro_blr
from pyro_blr import BLR, diagnostics, errors
from pyro_blr.guides import AutoNatural

JITTER = 1e-6
NOISE = torch.tensor(0.09, dtype=torch.float64)
Model = Callable[..., Any]


@pytest.fixture(autouse=True)
def double() -> Any:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def data(count: int = 60, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X = 6 * torch.rand(count, 1, generator=generator) - 3
    return X, torch.sin(2 * X[:, 0]) + 0.3 * torch.randn(count, generator=generator)


def inducing(count: int = 8) -> Tensor:
    return torch.linspace(-3.0, 3.0, count)[:, None]


def fixed(kernel: Any) -> Any:
    for parameter in kernel.parameters():
        parameter.requires_grad_(False)
    return kernel


def rbf() -> Any:
    return gp.kernels.RBF(1, variance=torch.tensor(1.2), lengthscale=torch.tensor(0.7))


def projected(
    kernel: Any, X: Tensor, Z: Tensor, jitter: float = JITTER
) -> tuple[Tensor, Tensor, Tensor]:
    """L of Kzz, ``W = Kxz L^-T`` and the variances of f given u."""
    L = torch.linalg.cholesky(kernel(Z) + jitter * torch.eye(len(Z)))
    W = torch.linalg.solve_triangular(L, kernel(Z, X), upper=False).mT
    return L, W, (kernel(X, diag=True) - W.square().sum(-1)).clamp(min=1e-12)


# Regression: ways to write the same model


def observed(loc: Tensor, variance: Tensor, y: Tensor) -> None:
    with pyro.plate("data", len(y)):
        pyro.factor("trace", -0.5 * variance / NOISE)
        pyro.sample("y", dist.Normal(loc, NOISE.sqrt()), obs=y)


def white(Z: Tensor) -> Tensor:
    return pyro.sample("u", dist.Normal(torch.zeros(len(Z)), 1.0).to_event(1))


def whitened(kernel: Any, Z: Tensor, X: Tensor, y: Tensor) -> None:
    _, W, variance = projected(kernel, X, Z)
    observed(W @ white(Z), variance, y)


def by_covariance(kernel: Any, Z: Tensor, X: Tensor, y: Tensor) -> None:
    Kzz = kernel(Z) + JITTER * torch.eye(len(Z))
    u = pyro.sample("u", dist.MultivariateNormal(torch.zeros(len(Z)), Kzz))
    _, _, variance = projected(kernel, X, Z)
    observed(kernel(X, Z) @ torch.linalg.solve(Kzz, u), variance, y)


def by_factor(kernel: Any, Z: Tensor, X: Tensor, y: Tensor) -> None:
    L, W, variance = projected(kernel, X, Z)
    u = pyro.sample("u", dist.MultivariateNormal(torch.zeros(len(Z)), scale_tril=L))
    white = torch.linalg.solve_triangular(L, u[:, None], upper=False)[:, 0]
    observed(W @ white, variance, y)


def by_cholesky_solve(kernel: Any, Z: Tensor, X: Tensor, y: Tensor) -> None:
    L, _, variance = projected(kernel, X, Z)
    u = pyro.sample("u", dist.MultivariateNormal(torch.zeros(len(Z)), scale_tril=L))
    observed(kernel(X, Z) @ torch.cholesky_solve(u[:, None], L)[:, 0], variance, y)


def by_conditional_of_values(kernel: Any, Z: Tensor, X: Tensor, y: Tensor) -> None:
    Kzz = kernel(Z) + JITTER * torch.eye(len(Z))
    u = pyro.sample("u", dist.MultivariateNormal(torch.zeros(len(Z)), Kzz))
    # It solves for u and Kzx at once, and takes the solutions apart again.
    loc, variance = gp.util.conditional(X, Z, kernel, u, jitter=JITTER)
    observed(loc, variance, y)


def by_conditional(kernel: Any, Z: Tensor, X: Tensor, y: Tensor) -> None:
    loc, variance = gp.util.conditional(X, Z, kernel, white(Z), whiten=True, jitter=JITTER)
    observed(loc, variance, y)


def with_values(kernel: Any, Z: Tensor, X: Tensor, y: Tensor) -> None:
    _, W, variance = projected(kernel, X, Z)
    u = white(Z)
    with pyro.plate("data", len(y)):
        f = pyro.sample("f", dist.Normal(W @ u, variance.sqrt()))
        pyro.sample("y", dist.Normal(f, NOISE.sqrt()), obs=y)


def with_all_values(kernel: Any, Z: Tensor, X: Tensor, y: Tensor) -> None:
    _, W, _ = projected(kernel, X, Z)
    joint = kernel(X) - W @ W.mT + 1e-8 * torch.eye(len(X))
    f = pyro.sample("f", dist.MultivariateNormal(W @ white(Z), joint))
    pyro.sample("y", dist.Normal(f, NOISE.sqrt()).to_event(1), obs=y)


SPELLINGS = {
    own.__name__: own
    for own in (
        *(whitened, by_covariance, by_factor, by_cholesky_solve),
        *(by_conditional, by_conditional_of_values, with_values),
    )
}


def collapsed(kernel: Any, Z: Tensor, X: Tensor, y: Tensor, approx: str) -> Any:
    return gp.models.SparseGPRegression(
        *(X, y, kernel, Z), noise=NOISE.clone(), approx=approx, jitter=JITTER
    )


def loss_of(model: Any) -> float:
    with torch.no_grad():
        return -float(poutine.trace(model.model).get_trace().log_prob_sum())


def posterior(blr: BLR) -> Any:
    """q(u), a multivariate normal."""
    (natural,) = blr.guide.naturals().values()
    linear, quadratic = (n.detach() for n in natural)
    covariance = torch.linalg.inv(-2 * quadratic)
    return torch.distributions.MultivariateNormal(covariance @ linear, covariance)


def one_step(model: Model, *args: Any, at_prior: tuple[str, ...] = ()) -> tuple[BLR, float]:
    blr = BLR(model, AutoNatural(model, at_prior=at_prior), step_size=1.0)
    blr.step(*args)
    return blr, blr.evaluate_loss(*args)


@pytest.mark.parametrize("name", SPELLINGS)
def test_one_step_is_the_collapsed_bound(name: str) -> None:
    (X, y), Z, kernel = data(), inducing(), fixed(rbf())
    expected = loss_of(collapsed(kernel, Z, X, y, "VFE"))
    pyro.clear_param_store()
    kept = ("f",) if name == "with_values" else ()
    blr, found = one_step(lambda X, y: SPELLINGS[name](kernel, Z, X, y), X, y, at_prior=kept)
    assert found == pytest.approx(expected, abs=1e-6)
    explained = blr.explain(X, y)
    assert {f.tier for f in explained.factors} == {"exact"}
    assert all(f.conjugate for f in explained.factors)


def test_all_values_together_have_the_same_bound() -> None:
    (X, y), Z, kernel = data(20), inducing(), fixed(rbf())
    found = [
        one_step(lambda X, y, m=m: m(kernel, Z, X, y), X, y, at_prior=("f",))[1]
        for m in (with_values, with_all_values)
    ]
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_inducing_points_at_the_data_give_the_exact_evidence() -> None:
    (X, y), kernel = data(25), fixed(rbf())
    covariance = kernel(X) + (NOISE + JITTER) * torch.eye(len(X))
    evidence = dist.MultivariateNormal(torch.zeros(len(X)), covariance).log_prob(y)

    def model(X: Tensor, y: Tensor) -> None:
        # The process itself has the jitter, so that nothing is left of its variance given u.
        K = kernel(X) + JITTER * torch.eye(len(X))
        u = pyro.sample("u", dist.MultivariateNormal(torch.zeros(len(X)), K))
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(u, NOISE.sqrt()), obs=y)

    assert one_step(model, X, y)[1] == pytest.approx(-float(evidence), abs=1e-6)
    sparse = one_step(lambda X, y: whitened(kernel, X, X, y), X, y)[1]
    assert sparse == pytest.approx(loss_of(gp_of(X, y, kernel)), abs=1e-3)  # but for the jitter


def gp_of(X: Tensor, y: Tensor, kernel: Any) -> Any:
    return gp.models.GPRegression(X, y, kernel, noise=NOISE.clone(), jitter=0.0)


def test_predictions_are_those_of_contrib_gp() -> None:
    (X, y), Z, kernel = data(), inducing(), fixed(rbf())
    reference = collapsed(kernel, Z, X, y, "VFE")
    new = torch.linspace(-2.5, 2.5, 7)[:, None]
    with torch.no_grad():
        loc, variance = reference(new)
    pyro.clear_param_store()
    blr, _ = one_step(lambda X, y: whitened(kernel, Z, X, y), X, y)
    law = posterior(blr)
    with torch.no_grad():
        found = gp.util.conditional(
            *(new, Z, kernel, law.mean, torch.linalg.cholesky(law.covariance_matrix)),
            whiten=True,
            jitter=JITTER,
        )
    assert torch.allclose(found[0], loc, atol=1e-6)
    assert torch.allclose(found[1], variance, atol=1e-6)


def test_values_of_which_q_is_free_give_the_fitc_evidence() -> None:
    """Without ``at_prior`` the same model is the FITC approximation, exactly solved."""
    (X, y), Z, kernel = data(), inducing(), fixed(rbf())
    expected = loss_of(collapsed(kernel, Z, X, y, "FITC"))
    pyro.clear_param_store()

    def together(X: Tensor, y: Tensor) -> None:
        _, W, variance = projected(kernel, X, Z)
        loc = W @ white(Z)
        with pyro.plate("data", len(y)):
            pyro.sample("y", dist.Normal(loc, (variance + NOISE).sqrt()), obs=y)

    assert one_step(together, X, y)[1] == pytest.approx(expected, abs=1e-6)
    free = one_step(lambda X, y: with_values(kernel, Z, X, y), X, y)[1]
    assert free == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("name", ["whitened", "by_factor", "with_values"])
def test_kernels_are_learned_along_the_collapsed_bound(name: str) -> None:
    """Beside the exact q, Adam takes the steps that it takes on the bound with q maximised out."""
    (X, y), Z = data(), inducing()
    reference = gp.models.SparseGPRegression(X, y, rbf(), Z, noise=NOISE.clone(), jitter=JITTER)
    reference.Xu.requires_grad_(False)
    reference.noise_unconstrained.requires_grad_(False)
    own = [p for p in reference.parameters() if p.requires_grad]
    adam = torch.optim.Adam(own, lr=0.05)
    for _ in range(20):
        adam.zero_grad()
        (-poutine.trace(reference.model).get_trace().log_prob_sum()).backward()
        adam.step()
    pyro.clear_param_store()
    kernel, kept = rbf(), ("f",) if name == "with_values" else ()

    def model(X: Tensor, y: Tensor) -> None:
        SPELLINGS[name](kernel, Z, X, y)

    blr = BLR(model, AutoNatural(model, at_prior=kept), pyro.optim.Adam({"lr": 0.05}))
    for _ in range(20):
        blr.step(X, y)
    for found, expected in (
        (kernel.variance, reference.kernel.variance),
        (kernel.lengthscale, reference.kernel.lengthscale),
    ):
        assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-7)
    moved = [p.update for p in blr.explain(X, y).parameters.values()]
    assert moved == ["optim", "optim"]


# Classification


def banana(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two bent classes that lie in one another."""
    generator = torch.Generator().manual_seed(seed)
    y = (torch.arange(count) % 2).double()
    turn = pi * torch.rand(count, generator=generator)
    arc = torch.stack([turn.cos(), turn.sin()], 1) - torch.tensor([0.5, 0.3])
    X = 1.5 * torch.where(y[:, None] > 0, arc, -arc)
    return X + 0.35 * torch.randn(count, 2, generator=generator), y


def classifier(X: Tensor, count: int = 15) -> tuple[Model, Tensor, Tensor, Tensor]:
    """A model with values f, and what it projects by."""
    kernel = fixed(gp.kernels.RBF(2, variance=torch.tensor(4.0), lengthscale=torch.tensor(0.8)))
    Z = X[:count].clone()

    def model(X: Tensor, y: Tensor | None, rows: Tensor | None = None) -> None:
        u = white(Z)
        with pyro.plate("data", len(X), subsample=rows) as index:
            chosen = X if rows is None else X[index]
            _, W, variance = projected(kernel, chosen, Z, 1e-4)
            f = pyro.sample("f", dist.Normal(W @ u, variance.sqrt()))
            seen = y if y is None or rows is None else y[index]
            pyro.sample("y", dist.Bernoulli(logits=f), obs=seen)

    return model, *projected(kernel, X, Z, 1e-4)


NODES, WEIGHTS = (torch.as_tensor(t) for t in np.polynomial.hermite_e.hermegauss(60))


def svgp_loss(m: Tensor, S: Tensor, W: Tensor, variance: Tensor, y: Tensor) -> Tensor:
    """-ELBO with q(f | u) = p(f | u), by Gauss and Hermite: Hensman et al. 2015."""
    spread = (variance + ((W @ S) * W).sum(-1)).sqrt()
    f = (W @ m)[:, None] + spread[:, None] * NODES
    fit = (logsigmoid((2 * y - 1)[:, None] * f) * WEIGHTS / WEIGHTS.sum()).sum()
    prior = torch.distributions.MultivariateNormal(torch.zeros(len(m)), torch.eye(len(m)))
    return kl_divergence(torch.distributions.MultivariateNormal(m, S), prior) - fit


def test_values_at_their_prior_have_the_svgp_bound() -> None:
    X, y = banana(80)
    model, _, W, variance = classifier(X)
    blr = BLR(model, AutoNatural(model, at_prior=["f"]))
    for _ in range(3):  # on the way, and at the optimum
        blr.step(X, y)
        law = posterior(blr)
        expected = svgp_loss(law.mean, law.covariance_matrix, W, variance, y)
        assert blr.evaluate_loss(X, y) == pytest.approx(float(expected), abs=1e-7)
    explained = blr.explain(X, y)
    assert explained["y"].tier == "quadrature"
    assert explained.blocks == (("u",),)
    assert any(note.startswith("f: ") for note in explained.notes)
    free = BLR(model, AutoNatural(model))  # q(f | u) is free: the bound of another model
    free.fit(X, y)
    assert free.evaluate_loss(X, y) < blr.evaluate_loss(X, y) - 1e-4


def test_steps_are_an_eighth_of_adams() -> None:
    X, y = banana(100)
    model, _, W, variance = classifier(X)
    blr = BLR(model, AutoNatural(model, at_prior=["f"], init_scale=1.0))
    losses = [blr.step(X, y) for _ in range(14)]
    best: tuple[float, int] | None = None
    for rate in (0.1, 0.3):
        m = torch.zeros(len(W.mT), requires_grad=True)
        R = torch.eye(len(m)).requires_grad_()
        adam = torch.optim.Adam([m, R], lr=rate)
        trace = []
        for _ in range(200):
            loss = svgp_loss(m, R.tril() @ R.tril().mT, W, variance, y)
            trace.append(float(loss.detach()))
            adam.zero_grad()
            loss.backward()
            adam.step()
        final = trace[-1]
        own = (final, next(i for i, value in enumerate(trace) if value <= final + 1e-3))
        best = own if best is None else min(best, own)
    assert best is not None
    final, iterations = best
    assert losses[-1] <= final + 1e-9
    steps = next(i for i, value in enumerate(losses) if value <= final + 1e-3)
    assert 8 * steps <= iterations, (steps, iterations)


def test_messages_of_minibatches_average_to_those_of_all_rows() -> None:
    X, y = banana(60)
    model, *_ = classifier(X)
    guide = AutoNatural(model, at_prior=["f"])
    blr = BLR(model, guide)
    blr.step(X, y)
    whole = blr.messages(X, y)["u"]
    parts = [blr.messages(X, y, rows)["u"] for rows in torch.arange(60).reshape(4, 15)]
    for one, *each in zip(whole, *parts, strict=True):
        assert torch.allclose(torch.stack(each).mean(0), one, atol=1e-8)
    pyro.set_rng_seed(1)
    for _ in range(40):
        blr.step(X, y, torch.randperm(60)[:15])
    best = BLR(model, AutoNatural(model, at_prior=["f"]))
    best.fit(X, y)
    assert blr.evaluate_loss(X, y) < best.evaluate_loss(X, y) + 1.0


def test_predictions_have_values_of_any_number_of_points() -> None:
    X, y = banana(60)
    model, *_ = classifier(X)
    blr = BLR(model, AutoNatural(model, at_prior=["f"]))
    blr.fit(X, y)
    pyro.set_rng_seed(0)
    new, _ = banana(11, seed=3)
    drawn = Predictive(model, guide=blr.guide, num_samples=200)(new, None)
    assert drawn["f"].shape == (200, 11)
    law = posterior(blr)
    _, W, variance = projected(
        fixed(gp.kernels.RBF(2, variance=torch.tensor(4.0), lengthscale=torch.tensor(0.8))),
        *(new, X[:15], 1e-4),
    )
    sd = (variance + ((W @ law.covariance_matrix) * W).sum(-1)).sqrt()
    assert ((drawn["f"].mean(0) - W @ law.mean).abs() < 5 * sd / 200**0.5).all()
    assert ((drawn["f"].std(0) / sd - 1).abs() < 0.3).all()


def test_draws_have_the_values_and_weights_without_them() -> None:
    X, y = banana(60)
    model, *_ = classifier(X)
    blr = BLR(model, AutoNatural(model, at_prior=["f"]))
    fit = blr.fit(X, y)
    exported = pyro_blr.to_arviz(fit, X, y, num_samples=400)
    assert exported["posterior"]["f"].shape == (1, 400, 60)
    pyro.set_rng_seed(0)
    draws = pyro_blr.draws.draws_of(fit, (X, y), num_samples=4000)
    weights = draws.log_weights
    assert (
        abs(float(weights.mean()) + blr.evaluate_loss(X, y)) < 5 * float(weights.std()) / 4000**0.5
    )
    assert diagnostics.report(fit, X, y, num_samples=500).khat < 0.7


# What else may be at its prior


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


def test_what_was_put_beside_a_latent_is_constant_when_it_is_taken_out_again() -> None:
    """Any function of it is allowed: ``gp.util.conditional`` clamps its variances."""
    y, scale = torch.tensor([0.5, -1.0]), torch.tensor([-0.5, 2.0])

    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mixed = torch.linalg.solve(2 * torch.eye(2), torch.stack([z, 2 * scale], 1))
        both = torch.cat([z, 2 * mixed[:, 1:].squeeze(-1)])
        with pyro.plate("data", 2):
            pyro.sample("y", dist.Normal(z, (both[2:] / 2).abs().clamp(min=1.0)), obs=y)

    blr, loss = one_step(model, y)
    evidence = dist.Normal(0.0, (1 + torch.tensor([1.0, 2.0]) ** 2).sqrt()).log_prob(y).sum()
    assert {f.tier for f in blr.explain(y).factors} == {"exact"}
    assert loss == pytest.approx(-float(evidence), abs=1e-12)
