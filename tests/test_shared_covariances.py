# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A covariance that is the same all along a plate is held once, and q is what it was without."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from torch import Tensor

from tests.checks import engine

N, D, K = 12, 4, 2
LOADINGS = torch.linspace(-1.0, 1.0, D * K).reshape(D, K).sin()
Y = torch.linspace(-3.0, 3.0, N * D).reshape(N, D).sin() + torch.eye(N, D)


def known_loadings() -> None:
    with pyro.plate("rows", N):
        z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z @ LOADINGS.T, 0.5).to_event(1), obs=Y)


def principal_components() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
    with pyro.plate("columns", D):
        W = pyro.sample("W", dist.Normal(LOADINGS, 0.2).to_event(1))
    with pyro.plate("rows", N):
        z = pyro.sample("z", dist.Normal(torch.zeros(K), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z @ W.T, tau.rsqrt()).to_event(1), obs=Y)


def latent_precision() -> None:
    L = pyro.sample("L", dist.Wishart(torch.tensor(6.0), torch.eye(D)))
    with pyro.plate("rows", N):
        z = pyro.sample("z", dist.MultivariateNormal(torch.zeros(D), precision_matrix=L))
        pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=Y)


def one_covariance_for_each_of_another_plate() -> None:
    size = torch.tensor([1.0, 2.0, 3.0])
    with pyro.plate("rows", N, dim=-2), pyro.plate("kinds", 3, dim=-1):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z * size[:, None], 1.0).to_event(1), obs=Y[:, None])


def two_numbers_a_row() -> None:
    with pyro.plate("rows", N):
        a, b = (pyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
        pyro.sample("y", dist.Normal(a + 2 * b, 1.0), obs=Y[:, 0])


MODELS = [
    known_loadings,
    principal_components,
    latent_precision,
    one_covariance_for_each_of_another_plate,
    two_numbers_a_row,
]


def is_shared(guide: Any) -> bool:
    return any(block.row_dims for block in guide.blocks)


@contextmanager
def unshared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr("pyro_blr.guides.auto_natural.share", lambda blocks, traced: list(blocks))
        yield


def fitted(model: Callable[[], None]) -> tuple[bool, float, dict[str, tuple[Tensor, Tensor]]]:
    blr, guide = engine(model)
    assert blr.fit(tol=1e-12, max_steps=300).converged
    marginals = {site: guide.marginal(site) for site in guide.latents}
    moments = {site: (q.mean, q.variance) for site, q in marginals.items()}
    return is_shared(guide), blr.evaluate_loss(), moments


@pytest.mark.parametrize("model", MODELS)
def test_it_is_the_posterior_of_unshared_covariances(
    model: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, loss, moments = fitted(model)
    with unshared(monkeypatch):
        apart, other_loss, others = fitted(model)
    assert shared
    assert not apart
    assert loss == pytest.approx(other_loss, rel=1e-10)
    for site, pair in moments.items():
        for value, other in zip(pair, others[site], strict=True):
            assert torch.allclose(value, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_draws_and_log_densities_of_the_guide(model: Callable[[], None]) -> None:
    blr, guide = engine(model)
    blr.step()
    draws = torch.tensor([Trace_ELBO().loss(model, guide) for _ in range(300)])
    error = draws.std() / len(draws) ** 0.5
    assert abs(blr.evaluate_loss() - draws.mean()) < 4.5 * error + 1e-9
    for site, values in guide.sample_posterior(20_000).items():
        q = guide.marginal(site)
        assert values.shape[1:] == q.batch_shape + q.event_shape
        error = values.std(0) / len(values) ** 0.5
        assert ((values.mean(0) - q.mean).abs() < 5 * error).all()


def _masked(mask: Tensor | bool) -> None:
    with pyro.plate("rows", N):
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        with poutine.mask(mask=mask):
            pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=Y)


def test_rows_of_which_some_are_masked_have_covariances_of_their_own() -> None:
    mask = torch.arange(N) < 5
    blr, guide = engine(_masked)
    blr.step(True)
    assert is_shared(guide)
    blr.step(mask)  # only now are the rows told apart
    assert not is_shared(guide)
    assert torch.allclose(guide.marginal("z").variance, torch.where(mask, 0.5, 1.0)[:, None])
    evidence = dist.Normal(0.0, 2**0.5).log_prob(Y[mask]).sum()
    assert -blr.evaluate_loss(mask) == pytest.approx(float(evidence), rel=1e-10)


def _subsampled(rows: Tensor) -> None:
    with pyro.plate("rows", N, subsample=rows) as index:
        z = pyro.sample("z", dist.Normal(torch.zeros(D), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=Y[index])


@pytest.mark.parametrize("full_first", [True, False])
def test_rows_of_a_subsample_have_covariances_of_their_own(full_first: bool) -> None:
    start = dist.Normal(Y.cos(), 0.3).to_event(1)
    blr, guide = engine(_subsampled)
    if full_first:
        blr.step(torch.arange(N))
        assert is_shared(guide)
    guide.set_natural({"z": start})
    blr.step(torch.arange(5))
    assert not is_shared(guide)
    found = guide.marginal("z").mean
    assert torch.allclose(found[:5], Y[:5] / 2)
    assert torch.allclose(found[5:], start.mean[5:], rtol=1e-10)


MEMORY = """
import resource, torch, pyro, pyro.distributions as dist
from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

torch.set_num_threads(1)
data = torch.randn(200_000, 20)

def model():
    with pyro.plate("rows", len(data)):
        z = pyro.sample("z", dist.Normal(torch.zeros(20), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(z, 1.0).to_event(1), obs=data)

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
guide = AutoNatural(model)
blr = BLR(model, guide)
blr.step()
guide.median()
guide.sample_posterior(1)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e6)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak memory as Linux counts it")
def test_no_matrix_is_held_for_each_row() -> None:
    """A covariance for each of 200 000 rows of 20 numbers would be 640 MB a copy."""
    run = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    assert float(run.stdout) < 0.6
