# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Classification by a sparse Gaussian process whose values are at their prior given u."""

from math import pi

import numpy as np
import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Predictive
from torch import Tensor
from torch.distributions import kl_divergence
from torch.nn.functional import logsigmoid

import pyro_blr
from pyro_blr import BLR, diagnostics
from pyro_blr.guides import AutoNatural
from tests.sparse_gp_models import Model, fixed, posterior, projected, white


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
