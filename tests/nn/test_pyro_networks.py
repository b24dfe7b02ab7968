# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Networks by PyroModule and PyroSample: q is diagonal where weights are many, and nowhere else."""

import itertools
import math
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from pyro_blr import BLR
from pyro_blr.families import MultivariateNormal
from pyro_blr.guides import AutoNatural


class Net(PyroModule):
    """One or two hidden layers."""

    def __init__(self, sizes: tuple[int, ...], kind: str, has_plate: bool = True) -> None:
        super().__init__()
        self.kind, self.has_plate = kind, has_plate
        layers = [PyroModule[nn.Linear](a, b) for a, b in itertools.pairwise(sizes)]
        self.layers = PyroModule[nn.ModuleList](layers)
        for layer in layers:
            scale = layer.in_features**-0.5
            weight = torch.zeros_like(layer.weight)
            layer.weight = PyroSample(dist.Normal(weight, scale).to_event(2))
            layer.bias = PyroSample(dist.Normal(torch.zeros_like(layer.bias), 1.0).to_event(1))

    def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        law = self.law(self.layers[-1](x))
        if not self.has_plate:
            return pyro.sample("y", law.to_event(1), obs=y)
        with pyro.plate("data", len(x)):
            return pyro.sample("y", law, obs=y)

    def law(self, outputs: Tensor) -> Any:
        if self.kind == "classification":
            return dist.Categorical(logits=outputs)
        noise = 0.1 if self.kind == "known noise" else pyro.sample("tau", dist.Gamma(2, 2)).rsqrt()
        return dist.Normal(outputs.squeeze(-1), noise)


def data(kind: str, count: int = 40) -> tuple[Tensor, Tensor]:
    x = 4 * torch.rand(count, 2) - 2
    f = torch.sin(2 * x[:, 0]) * x[:, 1]
    if kind == "classification":
        return x, (f > 0).long() + (f > 0.5).long()
    return x, f + 0.1 * torch.randn(count)


def engine(kind: str, hidden: int = 10, outputs: int = 3, **options: Any) -> BLR:
    sizes = (2, hidden, hidden, outputs if kind == "classification" else 1)
    model = Net(sizes, kind, options.pop("has_plate", True))
    return BLR(model, AutoNatural(model, **options), on_sampled="ignore")


def numbers(blr: BLR) -> int:
    return sum(n.numel() for natural in blr.guide.naturals().values() for n in natural)


@pytest.mark.parametrize(
    ("kind", "has_plate", "dtype"),
    [
        ("known noise", True, torch.float64),
        ("unknown noise", False, torch.float64),
        ("unknown noise", True, torch.float32),
        ("classification", True, torch.float32),
    ],
)
def test_many_weights_are_independent_under_q(
    kind: str, has_plate: bool, dtype: torch.dtype
) -> None:
    torch.set_default_dtype(dtype)
    try:
        x, y = data(kind)
        blr = engine(kind, has_plate=has_plate)
        losses = [blr.step(x, y) for _ in range(2)]
    finally:
        torch.set_default_dtype(torch.float64)
    assert all(math.isfinite(v) for v in losses)
    assert losses[-1] < losses[0]
    weights = [b for b in blr.guide.blocks if b.name != "tau"]
    assert all(block.event_size is None for block in weights)
    latents = sum(math.prod(latent.site.shape) for latent in blr.guide.latents.values())
    assert numbers(blr) == 2 * latents  # and no square of it
    assert blr.sampling.count <= 64
    assert any("which q holds independent" in note for note in blr.explain(x, y).notes)


def test_a_network_is_not_certified_by_half_of_its_hessian() -> None:
    x, y = data("unknown noise", 30)
    blr = engine("unknown noise")
    fit = blr.fit(x, y, max_steps=30)
    assert not fit.converged
    assert "leaves out the network's own curvature" in fit.reason


def test_minibatches_of_a_network_are_not_certified_either() -> None:
    net = nn.Sequential(nn.Linear(2, 90), nn.Tanh(), nn.Linear(90, 1)).requires_grad_(False)

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(90, 2), 1.0).to_event(2))
        with pyro.plate("data", 60, subsample_size=12) as rows:
            f = torch.func.functional_call(net, {"0.weight": w}, (x[rows],)).squeeze(-1)
            pyro.sample("y", dist.Normal(f, 0.1), obs=y[rows])

    blr = BLR(model, AutoNatural(model), on_sampled="ignore")
    fit = blr.fit(*data("known noise", 60), max_steps=21, tol=1e6)
    assert not fit.converged
    assert "leaves out the network's own curvature" in fit.reason


def test_few_weights_keep_their_covariances() -> None:
    x, y = data("known noise")
    blr = engine("known noise", hidden=4)
    blr.explain(x, y)
    assert blr.guide.layout["layers.1.weight"].event_size == 16


def test_a_named_family_is_kept() -> None:
    x, y = data("known noise", 10)
    blr = engine("known noise", families={"layers.2.weight": MultivariateNormal})
    blr.explain(x, y)
    assert blr.guide.layout["layers.2.weight"].event_size == 10
    assert blr.guide.layout["layers.1.weight"].event_size is None


def softmax(x: Tensor, y: Tensor) -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(x.shape[-1], 3), 1.0).to_event(2))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Categorical(logits=x @ w), obs=y)


def test_a_softmax_of_linear_functions_is_no_network() -> None:
    x = torch.randn(10, 50)
    blr = BLR(softmax, AutoNatural(softmax), on_sampled="ignore")
    blr.explain(x, torch.arange(10) % 3)
    assert blr.guide.layout["w"].event_size == 150


def test_a_long_vector_of_whose_couplings_nothing_is_known() -> None:
    """Its matrix would take 8 * 1500^2 bytes, and a chain along it would mean nothing."""
    x = torch.randn(10, 500)
    blr = BLR(softmax, AutoNatural(softmax), on_sampled="ignore")
    explanation = blr.explain(x, torch.arange(10) % 3)
    assert blr.guide.layout["w"].event_size is None
    assert any("only a sampled factor" in note for note in explanation.notes)


def test_a_long_chain_under_a_sampled_factor_stays_one() -> None:
    def model(y: Tensor) -> None:
        z = pyro.sample("z", dist.Normal(torch.zeros(1200), 10.0).to_event(1))
        pyro.factor("walk", -0.5 * ((z[1:] - z[:-1]) ** 2).sum())
        pyro.sample("y", dist.Normal(z.tanh().cumsum(0), 1.0).to_event(1), obs=y)

    blr = BLR(model, AutoNatural(model), on_sampled="ignore")
    explanation = blr.explain(torch.randn(1200))
    assert any("a chain of" in note for note in explanation.notes)


def test_several_layers_of_constants_are_a_network_too() -> None:
    """The weights of the first layer alone, and the rest as it is."""
    net = nn.Sequential(nn.Linear(4, 60), nn.Tanh(), nn.Linear(60, 1)).requires_grad_(False)

    def model(x: Tensor, y: Tensor) -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(60, 4), 1.0).to_event(2))
        f = torch.func.functional_call(net, {"0.weight": w}, (x,)).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(f, 0.1), obs=y)

    x = torch.randn(10, 4)
    blr = BLR(model, AutoNatural(model), on_sampled="ignore")
    blr.step(x, x[:, 0])
    assert blr.guide.layout["w"].event_size is None
