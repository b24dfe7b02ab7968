# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Scripts that run unchanged with SVI and with BLR: a row is a model, a guide and its data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.contrib.easyguide import easy_guide
from pyro.distributions import constraints
from pyro.infer import SVI, Trace_ELBO
from pyro.infer import autoguide as auto
from pyro.nn import PyroModule, PyroSample
from torch import Tensor, nn

from pyro_blr import BLR
from pyro_blr.families import Beta, Normal
from pyro_blr.guides import natural_param

positive = constraints.positive


def param(name: str, start: float) -> Tensor:
    return pyro.param(name, torch.tensor(start))


def positive_param(name: str, start: float) -> Tensor:
    return pyro.param(name, torch.tensor(start), constraint=positive)


# Models.


def beta_bernoulli(x: Tensor) -> None:
    p = pyro.sample("p", dist.Beta(2.0, 2.0))
    with pyro.plate("n", len(x)):
        pyro.sample("x", dist.Bernoulli(p), obs=x)


def gamma_poisson(k: Tensor) -> None:
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("n", len(k)):
        pyro.sample("k", dist.Poisson(rate), obs=k)


def normal_normal(y: Tensor) -> None:
    m = pyro.sample("m", dist.Normal(0.0, 10.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(m, 2.0), obs=y)


def regression(X: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    tau = pyro.sample("tau", dist.Gamma(2.0, 2.0))
    with pyro.plate("n", len(X)):
        pyro.sample("y", dist.Normal(X @ w + b, tau.rsqrt()), obs=y)


def subsampled(X: Tensor, y: Tensor) -> None:
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    w = pyro.sample("w", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    with pyro.plate("n", len(X), subsample_size=20) as index:
        pyro.sample("y", dist.Normal(X[index] @ w + b, 0.5), obs=y[index])


def sum_of_two(y: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("n", len(y)):
        pyro.sample("y", dist.Normal(a + b, 1.0), obs=y)


class Network(PyroModule):
    """A network of one hidden unit with random weights, and a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = PyroModule[nn.Linear](2, 1)
        self.hidden.weight = PyroSample(dist.Normal(0.0, 1.0).expand([1, 2]).to_event(2))
        self.hidden.bias = nn.Parameter(torch.zeros(1))

    def forward(self, X: Tensor, y: Tensor) -> None:
        mean = 2 * torch.tanh(self.hidden(X)).squeeze(-1)
        with pyro.plate("n", len(X)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


class Autoencoder:
    """A linear decoder and a small encoder."""

    def __init__(self) -> None:
        self.decoder = nn.Linear(1, 3)
        self.encoder = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def model(self, x: Tensor) -> None:
        decoder = pyro.module("decoder", self.decoder)
        with pyro.plate("n", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([1]).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 0.4).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        encoder = pyro.module("encoder", self.encoder)
        with pyro.plate("n", len(x)):
            loc, log_scale = encoder(x).split(1, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


# Guides that are written by hand.


def beta(x: Tensor) -> None:
    pyro.sample("p", dist.Beta(positive_param("a", 3.0), positive_param("b", 3.0)))


def beta_of_exp(x: Tensor) -> None:
    pyro.sample("p", dist.Beta(param("log_a", 1.0).exp(), param("log_b", 1.0).exp()))


def beta_natural(x: Tensor) -> None:
    pyro.sample("p", Beta().distribution(natural_param("p", Beta)))


def gamma(k: Tensor) -> None:
    pyro.sample("rate", dist.Gamma(positive_param("a", 12.0), positive_param("b", 5.0)))


def gamma_of_exp(k: Tensor) -> None:
    pyro.sample("rate", dist.Gamma(param("log_a", 2.5).exp(), positive_param("b", 5.0)))


def normal(y: Tensor) -> None:
    pyro.sample("m", dist.Normal(param("loc", 0.0), positive_param("scale", 1.0)))


def normal_of_exp(y: Tensor) -> None:
    pyro.sample("m", dist.Normal(param("loc", 0.0), param("log_scale", 0.0).exp()))


def normal_of_fixed_scale(y: Tensor) -> None:
    pyro.sample("m", dist.Normal(param("loc", 0.0), 0.5))


def structured(y: Tensor) -> None:
    first, second = natural_param("a", Normal)
    a = pyro.sample("a", Normal().distribution((first, second)))
    first, second = natural_param("b", Normal)
    pyro.sample("b", Normal().distribution((first + param("slope", 0.0) * a, second)))


def exposed(*names: str) -> Any:
    return poutine.block(regression, expose=list(names))


def noise_by_hand(X: Tensor, y: Tensor) -> None:
    pyro.sample("tau", dist.Gamma(positive_param("a", 15.0), positive_param("rate", 4.0)))


def list_of_parts() -> Any:
    guide = auto.AutoGuideList(regression)
    guide.append(auto.AutoMultivariateNormal(exposed("b", "w")))
    guide.append(noise_by_hand)
    return guide


def list_with_point() -> Any:
    guide = auto.AutoGuideList(regression)
    guide.append(auto.AutoNormal(exposed("b", "w")))
    guide.append(auto.AutoDelta(exposed("tau")))
    return guide


def easy() -> Any:
    @easy_guide(regression)
    def guide(self: Any, X: Tensor, y: Tensor) -> None:
        group = self.group(match="b|w")
        loc = pyro.param("loc", torch.zeros(group.event_shape))
        scale = pyro.param("scale", torch.full(group.event_shape, 0.2), constraint=positive)
        group.sample("bw", dist.Normal(loc, scale).to_event(1))
        self.map_estimate("tau")

    return guide


def coins() -> tuple[Tensor, ...]:
    return (torch.tensor([1.0, 1, 0, 1, 1, 0, 1, 1]),)


def counts() -> tuple[Tensor, ...]:
    return (torch.tensor([3.0, 2, 5, 1, 0, 4]),)


def reals() -> tuple[Tensor, ...]:
    return (3 + 2 * torch.randn(20, generator=torch.Generator().manual_seed(0)),)


def near_one() -> tuple[Tensor, ...]:
    return (1 + torch.randn(5, generator=torch.Generator().manual_seed(1)),)


def rows() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(2)
    X = torch.randn(40, 2, generator=generator)
    noise = 0.5 * torch.randn(40, generator=generator)
    return X, X @ torch.tensor([1.0, -0.5]) + 1 + noise


def images() -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(3)
    z = torch.randn(20, 1, generator=generator)
    return (z @ torch.tensor([[1.0, -1.0, 0.5]]) + 0.4 * torch.randn(20, 3, generator=generator),)


@dataclass(frozen=True)
class Script:
    """A script; SVI's learning rate falls a hundredfold over its steps.

    :param make: the model and the guide, made anew.
    :param steps: of BLR.
    :param svi_steps: of SVI.
    :param tol: nats that SVI may be above the optimum at its end.
    :param rule: ``"lifted"``, ``"drawn"`` or ``"point"``.
    """

    make: Callable[[], tuple[Any, Any]]
    data: Callable[[], tuple[Tensor, ...]]
    rule: str
    steps: int = 10
    svi_steps: int = 300
    lr: float = 0.1
    tol: float = 0.1


def written(model: Any, guide: Any, data: Any, rule: str = "lifted", **options: Any) -> Script:
    return Script(lambda: (model, guide), data, rule, **options)


def automatic(kind: Any, model: Any = regression, data: Any = rows, **options: Any) -> Script:
    return Script(lambda: (model, kind(model)), data, options.pop("rule", "lifted"), **options)


def _network() -> tuple[Any, Any]:
    model = Network()
    return model, auto.AutoNormal(model)


def _autoencoder() -> tuple[Any, Any]:
    pair = Autoencoder()
    return pair.model, pair.guide


SCRIPTS: dict[str, Script] = {
    "Beta": written(beta_bernoulli, beta, coins),
    "Beta of exp": written(beta_bernoulli, beta_of_exp, coins),
    "Beta in natural parameters": written(beta_bernoulli, beta_natural, coins, lr=0.2, tol=0.3),
    "Gamma": written(gamma_poisson, gamma, counts),
    "Gamma of exp": written(gamma_poisson, gamma_of_exp, counts),
    "Normal": written(normal_normal, normal, reals),
    "Normal of exp": written(normal_normal, normal_of_exp, reals),
    "Normal of fixed scale": written(normal_normal, normal_of_fixed_scale, reals, steps=20),
    "AutoNormal": automatic(auto.AutoNormal),
    "AutoDiagonalNormal": automatic(auto.AutoDiagonalNormal),
    "AutoMultivariateNormal": automatic(auto.AutoMultivariateNormal),
    "AutoLowRankMultivariateNormal": automatic(auto.AutoLowRankMultivariateNormal, steps=20),
    "AutoDelta": automatic(auto.AutoDelta, rule="point"),
    "AutoLaplaceApproximation": automatic(auto.AutoLaplaceApproximation, rule="point"),
    "AutoGuideList": Script(lambda: (regression, list_of_parts()), rows, "lifted"),
    "AutoGuideList with a point": Script(lambda: (regression, list_with_point()), rows, "lifted"),
    "EasyGuide": Script(lambda: (regression, easy()), rows, "lifted", steps=20),
    "PyroModule": Script(_network, rows, "lifted", steps=150),
    "subsampled": automatic(auto.AutoNormal, subsampled, steps=100),
    # In natural coordinates Adam is slow; the evidence is what test_charts.py compares with.
    "structured": written(sum_of_two, structured, near_one, "drawn", steps=600, tol=10.0),
    "VAE": Script(_autoencoder, images, "drawn", steps=600, svi_steps=600, tol=1.0),
}


def run(engine: type[SVI] | type[BLR], script: Script, steps: int) -> tuple[Any, Any, Any]:
    """The script: the two lines that differ between SVI and BLR are one word."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    model, guide = script.make()
    optim = pyro.optim.ClippedAdam({"lr": script.lr, "lrd": 0.01 ** (1 / steps)})
    inference = engine(model, guide, optim, Trace_ELBO())
    for _ in range(steps):
        inference.step(*script.data())
    return inference, model, guide
