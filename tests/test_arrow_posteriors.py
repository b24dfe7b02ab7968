# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What a guide with an arrow-head precision says of its posterior, and where it lives."""

import pickle
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.arviz import to_arviz
from pyro_blr.guides import AutoNaturalMultivariateNormal, memory
from pyro_blr.lifting.arrow_moments import ArrowMoments
from pyro_blr.steps.certificate import Curvature, certify
from tests.arrow_guides import arrow_of, made, parts_of
from tests.arrow_models import (
    CURVED,
    GROUP,
    GROUPS,
    LINEAR,
    ROWS,
    Model,
    X,
    Y,
    hierarchical_normal,
    logistic_regression,
)
from tests.fake_device import WITH_GRADIENTS, fake_device, fakes

every_model = pytest.mark.parametrize("model", (*LINEAR, *CURVED))


@every_model
def test_draws_are_those_of_the_joint_law_and_of_the_marginals(model: Model) -> None:
    blr, guide = made(model, "arrow")
    blr.step()
    mean, root = guide.joint()
    values = guide.sample_posterior(20_000)
    flat = []
    for name, latent in guide.latents.items():
        q = guide.marginal(name)
        assert values[name].shape[1:] == latent.site.shape == q.batch_shape + q.event_shape
        variable = values[name] if latent.transform is None else latent.transform.inv(values[name])
        flat.append(variable.reshape(20_000, -1))
        if latent.transform is None:
            place = slice(sum(f.shape[1] for f in flat[:-1]), sum(f.shape[1] for f in flat))
            torch.testing.assert_close(q.mean.flatten().double(), mean[place])
            variance = (root @ root.mT).diagonal()[place]
            torch.testing.assert_close(q.variance.flatten().double(), variance)
        low, middle, high = guide.quantiles([0.1, 0.5, 0.9])[name]
        inside = ((values[name] > low) & (values[name] < high)).double()
        assert ((inside.mean(0) - 0.8).abs() < 5 * 0.4 / 20_000**0.5).all()
        assert torch.equal(middle, guide.median()[name])
    white = torch.linalg.solve_triangular(root, (torch.cat(flat, 1) - mean).mT, upper=False)
    eye = torch.eye(len(mean))
    error = 2 * (1 + eye) / 20_000**0.5  # variances of products: 1, of squares: 2
    assert ((white @ white.mT / 20_000 - eye).abs() < 2.5 * error).all()
    assert (white.mean(1).abs() < 5 / 20_000**0.5).all()
    values = guide()
    assert {n: v.shape for n, v in values.items()} == {
        n: v.site.shape for n, v in guide.latents.items()
    }


def test_draws_have_the_gradient_of_their_moments() -> None:
    """In every leaf: what a sampled factor's messages are made of."""
    blr, guide = made(hierarchical_normal, "arrow")
    blr.step()
    (block,) = guide.blocks
    moments = ArrowMoments(block, tuple(n.detach() for n in guide.naturals()[block]))
    size, number = block.event_size or 0, 20_000
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(number, size, generator=generator)
    weights = tuple(torch.randn(n.shape, generator=generator) for n in moments.natural)
    family = block.family
    expected = family.inner(weights, family.of_moments(moments.means, moments.leaves[1:]))
    exact = moments.message(torch.autograd.grad(expected, moments.leaves))
    torch.testing.assert_close(exact, family.symmetrize(weights))

    def drawn(each: Tensor, *leaves: Tensor) -> Tensor:
        moments.leaves = leaves
        statistics = family.sufficient_statistics(moments.draw(each), moments.natural)
        return family.inner(weights, statistics)

    leaves = tuple(leaf.detach() for leaf in moments.leaves)
    argnums = tuple(range(1, 1 + len(leaves)))
    gradient = torch.func.grad(drawn, argnums)
    found = torch.func.vmap(gradient, (0, *(None for _ in leaves)))(noise, *leaves)
    moments.leaves = leaves
    messages = torch.func.vmap(lambda *g: moments.message(g))(*found)
    for values, whole in zip(messages, exact, strict=True):
        error = values.std(0) / number**0.5
        assert ((values.mean(0) - whole).abs() < 5 * error + 1e-12).all()


def test_a_sampled_factor_is_as_under_the_full_covariance() -> None:
    """A function of three scalars: global, local, and local of the same group.

    Twenty draws are too few for a map to exact second moments, which would leave a bias beside the
    error of a mean over many sets of draws.
    """

    def model() -> None:
        mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
        with pyro.plate("groups", GROUPS):
            a = pyro.sample("a", dist.Normal(mu, 1.0))
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
            rate = torch.nn.functional.softplus(a.sin() + b.cos() * mu.tanh())
            pyro.sample("y", dist.Exponential(rate), obs=Y[:GROUPS].abs() + 0.1)

    found = []
    for structure in ("dense", "arrow"):
        # An odd number: points with exact second moments would bias the two by 1e-3, differently.
        blr, guide = made(model, structure, num_draws=21, on_sampled="ignore")
        found.append([next(iter(blr.messages().values())) for _ in range(24)])
        if structure == "dense":
            (held,) = guide.blocks
    block = arrow_of(guide)
    parts = [parts_of(message, held, block)[0] for message in found[0]]
    for values, others in zip(zip(*found[1], strict=True), zip(*parts, strict=True), strict=True):
        one, other = torch.stack(values), torch.stack(others)
        error = ((one.var(0) + other.var(0)) / len(one)).sqrt()
        assert ((one.mean(0) - other.mean(0)).abs() < 6 * error + 1e-9).all()
    assert "sampled factors (y) couple groups of the plate 'groups'" in blr.explain().notes[1]


def test_arviz_has_the_evidence_for_every_weight() -> None:
    blr, _ = made(hierarchical_normal, "arrow")
    fit = blr.fit()
    statistics = to_arviz(fit, num_samples=20)["sample_stats"]
    weights = (statistics["log_p"] - statistics["log_q"]).values
    np.testing.assert_allclose(weights, -blr.evaluate_loss(), rtol=1e-9)


def test_it_is_saved_pickled_and_given_a_start(tmp_path: Path) -> None:
    blr, guide = made(logistic_regression, "arrow")
    assert blr.fit().converged
    loss, marginal = blr.evaluate_loss(), guide.marginal("b")
    copy = pickle.loads(pickle.dumps(guide))
    assert torch.equal(copy.marginal("b").mean, marginal.mean)
    file = str(tmp_path / "guide")
    pyro.get_param_store().save(file)
    pyro.clear_param_store()
    pyro.get_param_store().load(file)
    loaded = AutoNaturalMultivariateNormal(logistic_regression, structure="arrow")
    again = BLR(logistic_regression, loaded)
    assert again.evaluate_loss() == pytest.approx(loss, rel=1e-12)
    start = {name: dist.Normal(torch.zeros(n.site.shape), 0.3) for name, n in guide.latents.items()}
    guide.set_natural(start)
    torch.testing.assert_close(guide.marginal("b").variance, torch.full((GROUPS,), 0.09))


@pytest.mark.parametrize("tier", ["exact", "quadrature", "sampled"])
def test_a_step_stays_on_the_device(tier: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def model(x: Tensor, y: Tensor) -> None:
        zero, one = x.new_zeros(()), x.new_ones(())
        mu = pyro.sample("mu", dist.Normal(zero, one))
        with pyro.plate("groups", GROUPS, dim=-1):
            a = pyro.sample("a", dist.Normal(mu, one))
            b = pyro.sample("b", dist.LogNormal(zero, one))
        with pyro.plate("data", 4, dim=-2), pyro.plate("columns", GROUPS, dim=-1):
            f = a + b.log() * x
            if tier == "exact":
                pyro.sample("y", dist.Normal(f, one), obs=y)
            elif tier == "quadrature":
                pyro.sample("y", dist.Bernoulli(logits=f), obs=y)
            else:
                pyro.sample("y", dist.Normal((a * b).tanh() * mu.sin() * x, one), obs=y)

    with fake_device(monkeypatch):
        shape = (4, GROUPS)
        data = fakes((X[:20].reshape(shape), (Y[:20] > 1).double().reshape(shape)), WITH_GRADIENTS)
        monkeypatch.setattr(memory, "available_bytes", lambda device: None)
        blr, guide = made(model, "arrow", on_sampled="ignore")
        blr.step(*data)
        blr.step(*data)
        explained = blr.explain(*data)
        (message,) = blr.messages(*data).values()
        certify(Curvature(blr.info._objective, guide.naturals()), 1e-6)
        with pyro.validation_enabled(False):
            found = [*guide(*data).values(), guide.marginal("a").mean, *guide.joint()]
        found += [*message, *(n for each in guide.naturals().values() for n in each)]
    assert {t.device.type for t in found} == {WITH_GRADIENTS}
    assert explained["y"].tier == tier


def test_float32() -> None:
    def model(dtype: torch.dtype) -> None:
        x, y = X.to(dtype), (Y > 1).to(dtype)
        mu = pyro.sample("mu", dist.Normal(torch.zeros((), dtype=dtype), 2.0))
        with pyro.plate("groups", GROUPS):
            a = pyro.sample("a", dist.Normal(mu, 1.0))
            b = pyro.sample("b", dist.Normal(torch.zeros(GROUPS, dtype=dtype), 1.0))
        with pyro.plate("data", ROWS):
            pyro.sample("y", dist.Bernoulli(logits=a[GROUP] + b[GROUP] * x), obs=y)

    found = []
    for dtype in (torch.float64, torch.float32):
        blr, guide = made(model, "arrow")
        assert blr.fit(dtype, tol=1e-6).converged
        found.append((blr.evaluate_loss(dtype), guide.marginal("a")))
        assert guide.marginal("a").mean.dtype == dtype
        assert all(v.dtype == dtype for v in guide(dtype).values())
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    torch.testing.assert_close(found[1][1].mean.double(), found[0][1].mean, rtol=1e-3, atol=1e-3)
