# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Gauss-Newton: exact where the network is linear, never out of the cone elsewhere."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pyro_blr import BLR, errors
from pyro_blr.estimators import GaussNewton, Outputs, Variable, exact_hessian, gauss_newton
from pyro_blr.guides import AutoNatural
from tests.checks import factor_of
from tests.oracles import monte_carlo

pytestmark = pytest.mark.filterwarnings("ignore::pyro_blr.errors.SampledFactorWarning")

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 4, generator=GENERATOR, dtype=torch.float64)
LABELS = torch.tensor([0, 2, 1, 1, 0, 2])


def vector_variable(count: int, size: int, seed: int = 1) -> Variable:
    generator = torch.Generator().manual_seed(seed)
    draws = 0.5 * torch.randn(count, size, generator=generator, dtype=torch.float64)
    eye = torch.eye(size, dtype=torch.float64)
    return Variable(
        torch.zeros(size, dtype=torch.float64), 0.25 * eye, 4 * eye, draws.requires_grad_(), False
    )


def softmax_loss(outputs: Tensor) -> Tensor:
    """# shape: (draws, 6, 3) -> (draws,)"""
    return -F.cross_entropy(outputs.mT, LABELS.expand(len(outputs), 6), reduction="none").sum(-1)


def normal_loss(outputs: Tensor) -> Tensor:
    """# shape: (draws, 6, 3) -> (draws,); not a function of one row alone, but of one element."""
    return -0.5 * (outputs - 0.3).square().sum((-2, -1)) / 0.7


def linear(draws: Tensor) -> Tensor:
    return X @ draws.reshape(-1, 4, 3)


def deep(draws: Tensor) -> Tensor:
    return torch.tanh(2 * linear(draws)) @ (X[:3, :3] + torch.eye(3))


LOSSES = [(softmax_loss, True), (normal_loss, False)]


@pytest.mark.parametrize(("loss", "is_vector"), LOSSES, ids=["softmax", "normal"])
def test_columns_of_a_linear_network_are_the_hessian(loss, is_vector: bool) -> None:
    """Catches J'HJ with J the wrong way round, and a slope's second use left out."""
    variable = vector_variable(5, 12)
    outputs = linear(variable.draws)
    values = loss(outputs)
    (gradient,) = torch.autograd.grad(values.sum(), variable.draws, create_graph=True)
    exact = exact_hessian(gradient, variable)
    ours = GaussNewton(values, [Outputs(outputs, is_vector)])(gradient, variable)
    torch.testing.assert_close(ours, exact)


@pytest.mark.parametrize(("loss", "is_vector"), LOSSES, ids=["softmax", "normal"])
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_probes_have_the_mean_of_the_columns(monkeypatch, loss, is_vector: bool, count) -> None:
    """z-test over seeds of the signs. Catches a root that is none, one sign for a whole row, and a
    mean over draws that is not divided by the probes."""
    variable = vector_variable(count, 12)
    outputs = deep(variable.draws)
    values = loss(outputs)
    estimator = GaussNewton(values, [Outputs(outputs, is_vector)])
    exact = estimator(values, variable)
    monkeypatch.setattr(gauss_newton, "EXACT", 0)
    each = []
    for seed in range(max(24, 128 // count)):
        found = estimator(values, replace(variable, seed=seed))
        assert float(torch.linalg.eigvalsh(found).max()) < 1e-12  # each is in the cone
        each.append(found)
    stacked = torch.stack(each)
    error = stacked.std(0) / math.sqrt(len(each))
    monte_carlo.z_test(stacked.mean(0), exact, error, 5.0)


@pytest.mark.parametrize("by_probes", [False, True])
def test_scalars_and_shared_rows(monkeypatch, by_probes: bool) -> None:
    """The same curvature seen as a plate of scalars, and as rows that share a variance: the
    diagonal, and its sum. Catches elements of different blocks coupled, and rows counted once."""
    if by_probes:
        monkeypatch.setattr(gauss_newton, "EXACT", 0)
    full = vector_variable(4000 if by_probes else 5, 4)
    o = torch.tanh(full.draws @ X.T)
    values = -0.5 * o.square().sum(-1)
    truth = GaussNewton(values, [Outputs(o, False)])(values, full)
    mean = torch.zeros(4, dtype=torch.float64)
    scalar = Variable(mean, 0.25 + mean, 4 + mean, full.draws, True)
    found = GaussNewton(values, [Outputs(o, False)])(values, scalar)
    torch.testing.assert_close(found, truth.diagonal())
    draws = full.draws.detach().unsqueeze(-1).requires_grad_()
    o = torch.tanh(draws[..., 0] @ X.T)
    values = -0.5 * o.square().sum(-1)
    one = torch.eye(1, dtype=torch.float64)
    rows = Variable(mean.unsqueeze(-1), 0.25 * one, 4 * one, draws, False)
    found = GaussNewton(values, [Outputs(o, False)])(values, rows)
    torch.testing.assert_close(found, truth.diagonal().sum().reshape(1, 1))


def test_a_loss_that_is_linear_in_the_outputs_has_none() -> None:
    variable = vector_variable(3, 12)
    outputs = deep(variable.draws)
    assert GaussNewton(outputs.sum((1, 2)), [Outputs(outputs, False)])(outputs, variable) is None


# ------------------------------------------------------------ which factors have such outputs


def weights(rows: int, columns: int, name: str = "w") -> Tensor:
    one = torch.ones(rows, columns, dtype=torch.float64)
    return pyro.sample(name, dist.Normal(0 * one, one).to_event(2))


def classes() -> None:
    w = weights(4, WIDTH)
    with pyro.plate("n", 6):
        logits = torch.tanh(X @ w) @ torch.ones(WIDTH, 3, dtype=torch.float64)
        pyro.sample("y", dist.Categorical(logits=logits), obs=LABELS)


def rectified() -> None:
    w = weights(4, WIDTH)
    with pyro.plate("n", 6):
        mean = torch.relu(X @ w).sum(-1)
        pyro.sample("y", dist.Normal(mean, 1.0), obs=LABELS.double())


def counts() -> None:
    w = weights(4, WIDTH)
    with pyro.plate("n", 6):
        rate = torch.exp(torch.tanh(X @ w).sum(-1))
        pyro.sample("y", dist.Poisson(rate), obs=LABELS.double())


def two_outputs() -> None:
    w = weights(4, WIDTH)
    with pyro.plate("n", 6):
        hidden = torch.tanh(X @ w)
        scale = F.softplus(hidden[:, 0])
        pyro.sample("y", dist.Normal(hidden.sum(-1), scale), obs=LABELS.double())


def heavy_tails() -> None:
    w = weights(4, WIDTH)
    with pyro.plate("n", 6):
        mean = torch.tanh(X @ w).sum(-1)
        pyro.sample("y", dist.StudentT(3.0, mean, 1.0), obs=LABELS.double())


def no_likelihood() -> None:
    pyro.factor("y", -torch.cos(torch.tanh(X @ weights(4, WIDTH)).sum(-1)).sum())


WIDTH = 2
#: Of 8 elements and of 520, under "auto" and under "gauss_newton".
NAMED = {
    classes: ("exact Hessians", "Gauss-Newton", "Gauss-Newton"),
    counts: ("exact Hessians", "Gauss-Newton", "Gauss-Newton"),
    rectified: ("Stein's form", "Gauss-Newton", "Gauss-Newton"),
    two_outputs: ("exact Hessians", "Stein's form", "exact Hessians"),
    heavy_tails: ("exact Hessians", "Stein's form", "exact Hessians"),
    no_likelihood: ("exact Hessians", "Stein's form", "exact Hessians"),
}


def reason(model, width: int, estimator: str) -> str:
    globals().update(WIDTH=width)
    pyro.clear_param_store()
    return factor_of(BLR(model, AutoNatural(model), estimator=estimator), "y").reason


@pytest.mark.parametrize("model", NAMED, ids=lambda m: m.__name__)
def test_explain_names_the_estimator(model) -> None:
    """Catches Gauss-Newton where a density is not concave in its outputs, or of two at once."""
    small, large, asked = NAMED[model]
    try:
        assert f"estimated by {small}" in reason(model, 2, "auto")
        assert f"estimated by {large}" in reason(model, 130, "auto")
        assert f"estimated by {asked}" in reason(model, 2, "gauss_newton")
        assert "estimated by Stein's form" in reason(model, 2, "stein")
    finally:
        globals().update(WIDTH=2)


def linear_classes() -> None:
    w = weights(4, 3)
    with pyro.plate("n", 6):
        pyro.sample("y", dist.Categorical(logits=X @ w), obs=LABELS)


def test_messages_of_a_linear_network_are_those_of_exact_hessians() -> None:
    """The engine as a whole, at the same draws. Catches a factor that is left out of the outputs'
    function, a prior whose Hessian is counted twice, a cut at the wrong place."""
    found = []
    for estimator in ("hessian", "gauss_newton"):
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        blr = BLR(linear_classes, AutoNatural(linear_classes), estimator=estimator, num_draws=16)
        found.append((blr.evaluate_loss(), *blr.messages()["w"]))
        pyro.set_rng_seed(0)
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_a_wide_network_is_fitted_without_leaving_the_cone() -> None:
    globals().update(WIDTH=130)
    try:
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        blr = BLR(classes, AutoNatural(classes), num_draws=32)
        losses = [blr.step() for _ in range(3)]
        assert losses[-1] < losses[0]
        assert blr.info.safety.retractions == 0
    finally:
        globals().update(WIDTH=2)


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(errors.ArgumentError, match="estimator must be"):
        BLR(classes, AutoNatural(classes), estimator="newton")
