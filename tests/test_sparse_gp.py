# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Sparse Gaussian processes in plain Pyro: a site u, and kernels of ``pyro.contrib.gp``."""

from typing import Any

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural
from tests.sparse_gp_models import (
    JITTER,
    data,
    fixed,
    inducing,
    one_step,
    posterior,
    projected,
    rbf,
    white,
)

NOISE = torch.tensor(0.09, dtype=torch.float64)

# Ways to write the same model


def observed(loc: Tensor, variance: Tensor, y: Tensor) -> None:
    with pyro.plate("data", len(y)):
        pyro.factor("trace", -0.5 * variance / NOISE)
        pyro.sample("y", dist.Normal(loc, NOISE.sqrt()), obs=y)


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
