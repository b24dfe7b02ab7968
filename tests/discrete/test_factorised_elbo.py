# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""ELBOs and messages under a factorised q of discrete latents are those of listing all values."""

from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_blr import BLR, errors
from pyro_blr.guides import AutoNatural
from tests.discrete.brute_force import JointTable, entropy
from tests.discrete.factorised_models import EDGES, MODELS, WEIGHTS, N, over_edges, switches


def random_q(guide: AutoNatural) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Random probabilities, written to the guide, and the values that they are of."""
    probs, levels = {}, {}
    for name, latent in guide.latents.items():
        count = len(latent.site.levels)
        probs[name] = torch.randn(*latent.block().batch_shape, count).double().softmax(-1)
        levels[name] = latent.site.values_at(torch.arange(count)).to(latent.dtype)
    guide.set_natural({n: ((p[..., :-1] / p[..., -1:]).log(),) for n, p in probs.items()})
    return probs, levels


def set_up(model: Any) -> tuple[BLR, AutoNatural]:
    guide = AutoNatural(model)
    blr = BLR(model, guide, discrete="factorised")
    blr.evaluate_loss()
    return blr, guide


@pytest.mark.parametrize("name", MODELS)
def test_elbo_and_messages(name: str) -> None:
    torch.manual_seed(1)
    blr, guide = set_up(MODELS[name])
    probs, levels = random_q(guide)

    table = JointTable(MODELS[name], {n: tuple(p.shape[:-1]) for n, p in probs.items()}, levels)
    elbo = table.expected(probs) + entropy(probs)
    assert blr.evaluate_loss() == pytest.approx(-elbo, abs=1e-10, rel=1e-10)
    assert all(f.tier == "exact" for f in blr.explain().factors)
    # The message of a value is the expected log joint with the element at it, less the last one's.
    messages = blr.messages()
    site = next(reversed(probs))
    place = (0,) * (probs[site].dim() - 1)
    fixed = []
    for value in range(probs[site].shape[-1]):
        own = probs[site].clone()
        own[place] = torch.nn.functional.one_hot(torch.tensor(value), own.shape[-1]).double()
        fixed.append(table.expected({**probs, site: own}))
    expected = torch.tensor(fixed[:-1]).double() - fixed[-1]
    assert torch.allclose(messages[site][0][place], expected, atol=1e-9)


@pytest.mark.parametrize("name", ["pairs", "matrix", "Ising", "chain", "squares", "Potts"])
def test_monotone(name: str) -> None:
    torch.manual_seed(2)
    blr, guide = set_up(MODELS[name])
    random_q(guide)
    losses = [blr.step() for _ in range(30)]
    assert all(b <= a + 1e-9 for a, b in pairwise(losses))


def noisy_or() -> None:
    z = switches()
    with pyro.plate("symptoms", N):
        off = torch.exp(-(WEIGHTS.abs() @ z) - 0.1)
        pyro.sample("y", dist.Bernoulli(1 - off), obs=EDGES[0])


def test_many_parents_are_refused() -> None:
    with pytest.raises(errors.DiscreteLatentError, match=r"'y'.*several elements.*Mend"):
        set_up(noisy_or)


def test_program_that_does_not_broadcast_is_refused() -> None:
    table = torch.randn(2, 3).double()
    model = over_edges(lambda z: dist.Normal(table[:, z[:3]].T.reshape(-1), 1.0), WEIGHTS[0, :1])
    with pytest.raises(errors.DiscreteLatentError, match=r"'edge'.*Mend"):
        set_up(model)


def after_a_function(z: Tensor, w: Tensor) -> Tensor:
    return torch.tanh(w[z]) + torch.tanh(w[z]).flip(0)


def behind_a_table(z: Tensor, w: Tensor) -> Tensor:
    return w[torch.tensor([1, 0, 1])[z].roll(1)]


@pytest.mark.parametrize("predictor", [after_a_function, behind_a_table])
@pytest.mark.parametrize("is_latent", [True, False])
def test_elements_that_move_on_the_way_are_refused(predictor: Any, is_latent: bool) -> None:
    """Dims fit, and it is another element: by quadrature and by numbers alike."""

    def model() -> None:
        w = torch.tensor([0.3, -0.8, 1.1]).double()
        if is_latent:
            w = pyro.sample("w", dist.Normal(w, 1.0).to_event(1))
        with pyro.plate("nodes", N):
            z = pyro.sample("z", dist.Categorical(torch.ones(3).double() / 3))
        with pyro.plate("others", N):
            pyro.sample("y", dist.Bernoulli(logits=predictor(z, w)), obs=EDGES[0])

    with pytest.raises(errors.DiscreteLatentError, match=r"'y'.*several elements of z.*Mend"):
        set_up(model)


def test_quadrature_of_one_hot_products_with_other_latents() -> None:
    def model() -> None:
        u = pyro.sample("u", dist.Normal(torch.zeros(N).double(), 1.0).to_event(1))
        w = pyro.sample("w", dist.Normal(torch.zeros(3, 3).double(), 1.0).to_event(2))
        with pyro.plate("nodes", N):
            z = pyro.sample("z", dist.OneHotCategorical(torch.ones(3).double() / 3))
        with pyro.plate("rows", N, dim=-2), pyro.plate("columns", N, dim=-1):
            logits = z @ w @ z.mT + u[:, None]
            pyro.sample("y", dist.Bernoulli(logits=logits), obs=EDGES)

    torch.manual_seed(0)
    blr, guide = set_up(model)
    assert blr.explain()["y"].tier == "quadrature"
    guide.set_natural({"z": (torch.randn(N, 2).double(),)})
    losses = [blr.step() for _ in range(10)]
    assert all(b <= a + 1e-8 for a, b in pairwise(losses))


def test_quadrature_is_the_mean_over_values() -> None:
    """A logistic block model: numbers for each pair of values, under their probabilities."""
    src, dst = torch.triu_indices(N, N, 1)

    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(2, 2).double(), 1.0).to_event(2))
        with pyro.plate("nodes", N):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.4, 0.6]).double()))
        with pyro.plate("edges", len(src)):
            pyro.sample("y", dist.Bernoulli(logits=w[z[src], z[dst]]), obs=EDGES[src, dst])

    guide = AutoNatural(model)
    blr = BLR(model, guide, discrete="factorised")
    blr.evaluate_loss()
    q = torch.rand(N).double()
    loc, scale = torch.randn(4).double(), 0.3 + torch.rand(4).double()
    guide.set_natural(
        {"z": ((q / (1 - q)).log()[:, None],), "w": dist.MultivariateNormal(loc, scale.diag() ** 2)}
    )
    assert blr.explain()["y"].tier == "quadrature"
    t = torch.linspace(-10, 10, 4001).double()
    weight = torch.exp(-0.5 * t**2)
    f = loc.reshape(2, 2, 1) + scale.reshape(2, 2, 1) * t
    mean = [
        (torch.nn.functional.logsigmoid(s * f) * weight).sum(-1) / weight.sum() for s in (-1, 1)
    ]
    pairs = torch.where(EDGES[src, dst, None, None] == 1, mean[1], mean[0])
    p = torch.stack([q, 1 - q], -1)
    data = torch.einsum("ek,el,ekl->", p[src], p[dst], pairs)
    prior = (p @ torch.tensor([0.4, 0.6]).double().log()).sum() - torch.xlogy(p, p).sum()
    kl = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum()
    assert blr.evaluate_loss() == pytest.approx(float(kl - data - prior), abs=1e-6)
