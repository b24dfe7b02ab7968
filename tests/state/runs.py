# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Runs that are stopped and resumed: one row a run, for each kind of memory that a step has."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import (
    AutoDelta,
    AutoDiagonalNormal,
    AutoIAFNormal,
    AutoLaplaceApproximation,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import Tensor
from torch.distributions import constraints

from pyro_blr import BLR
from pyro_blr.guides import (
    AutoNatural,
    AutoNaturalLowRankMultivariateNormal,
    AutoNaturalMultivariateNormal,
    AutoNaturalNormal,
)
from pyro_blr.steps.cone import Safety

N, D = 24, 3
GENERATOR = torch.Generator().manual_seed(11)
X = torch.randn(N, D, generator=GENERATOR, dtype=torch.float64)
Y = X @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
Y = Y + 0.3 * torch.randn(N, generator=GENERATOR, dtype=torch.float64)
POSITIVE = constraints.positive


def regression() -> None:
    tau = pyro.sample("tau", dist.Gamma(2.0, 1.0))
    w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
    b = pyro.sample("b", dist.Normal(0.0, 1.0))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Normal(X @ w + b, tau.rsqrt()), obs=Y)


def logistic() -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(D), 3.0).to_event(1))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Bernoulli(logits=X @ w), obs=(Y > 0).double())


def coupled() -> None:
    """Elements that are coupled within a block: steps are halved, and begin at twice the last."""
    with pyro.plate("features", 4 * D):
        w = pyro.sample("w", dist.Normal(0.0, 3.0))
    with pyro.plate("data", N):
        design = torch.cat([X + 0.1 * k for k in range(4)], -1)
        pyro.sample("y", dist.Poisson((0.3 * design @ w).exp()), obs=(4 * Y.abs()).floor())


def components() -> None:
    """Rows that share a covariance."""
    W = pyro.sample("W", dist.Normal(torch.zeros(D, 2), 1.0).to_event(2))
    with pyro.plate("data", N):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ W.mT, 0.5).to_event(1), obs=X)


def norm() -> None:
    w = pyro.sample("w", dist.Normal(torch.zeros(D), 1.0).to_event(1))
    s = pyro.sample("s", dist.Gamma(2.0, 2.0))
    pyro.sample("y", dist.Normal(w.norm() * s, 1.0), obs=torch.tensor(2.0))


def drawn_rows() -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", N, subsample_size=6) as index:
        z = pyro.sample("z", dist.Normal(a, 1.0))
        pyro.sample("y", dist.Normal(z, 0.5), obs=Y[index])


def given_rows(index: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", N, subsample=index):
        z = pyro.sample("z", dist.Normal(a, 1.0))
        pyro.sample("y", dist.Poisson(z.exp()), obs=Y[index].abs().floor())


def given_globals(index: Tensor) -> None:
    a = pyro.sample("a", dist.Normal(0.0, 1.0))
    with pyro.plate("data", N, subsample=index):
        pyro.sample("y", dist.Normal(a, 0.5), obs=Y[index])


def scales() -> None:
    m = pyro.param("m", lambda: torch.randn(()))
    v = pyro.param("v", torch.tensor(2.0), constraint=POSITIVE)
    with pyro.plate("data", N):
        u = pyro.sample("u", dist.Normal(m, 1.0))
        pyro.sample("y", dist.Normal(u, v.sqrt()), obs=Y)


def scales_of_drawn_rows() -> None:
    m = pyro.param("m", torch.tensor(0.0))
    v = pyro.param("v", torch.tensor(2.0), constraint=POSITIVE)
    with pyro.plate("data", N, subsample_size=8) as index:
        u = pyro.sample("u", dist.Normal(m, 1.0))
        pyro.sample("y", dist.Normal(u, v.sqrt()), obs=Y[index])


def shape() -> None:
    """A parameter without an M-step beside one that has one."""
    k = pyro.param("k", torch.tensor(2.0), constraint=POSITIVE)
    m = pyro.param("m", torch.tensor(0.5))
    rate = pyro.sample("rate", dist.Gamma(k, 1.0))
    with pyro.plate("data", N):
        pyro.sample("y", dist.Poisson(rate), obs=Y.abs().floor())
        pyro.sample("x", dist.Normal(m, 1.0), obs=Y)


class Module(PyroModule):
    """Latents and parameters as attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.w = PyroSample(dist.Normal(torch.zeros(D), 1.0).to_event(1))
        self.scale = PyroParam(torch.tensor(1.0), POSITIVE)
        self.bias = torch.nn.Parameter(torch.tensor(0.1))

    def forward(self) -> None:
        mean = X @ self.w + self.bias
        with pyro.plate("data", N):
            pyro.sample("y", dist.Normal(mean, self.scale), obs=Y)


def amortised() -> None:
    """A guide that is known by its draws alone."""
    pyro.sample("a", dist.Normal(pyro.param("a_loc", torch.tensor(0.0)), 0.5))
    slope = pyro.param("slope", torch.tensor(0.1))
    with pyro.plate("data", N, subsample_size=6) as index:
        pyro.sample("z", dist.Normal(slope * Y[index], 0.5))


def adam() -> Any:
    return pyro.optim.Adam({"lr": 0.05})


def clipped_adam() -> Any:
    return pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.9})


def momentum_sgd() -> Any:
    return pyro.optim.SGD({"lr": 0.01, "momentum": 0.9})


def batches(step: int) -> tuple[Tensor]:
    """The rows of a step, by a loader of the user's own."""
    return (torch.randperm(N, generator=torch.Generator().manual_seed(step))[:5],)


@dataclass(frozen=True)
class Run:
    """A run, as a user would write it twice: before and after the stop.

    :param model: makes the model.
    :param args: the arguments of a step, by its number.
    """

    name: str
    model: Callable[[], Callable[..., Any]]
    guide: Callable[..., Any] = AutoNatural
    optim: Callable[[], Any] = lambda: None
    options: dict[str, Any] = field(default_factory=dict)
    args: Callable[[int], tuple[Any, ...]] = lambda step: ()

    def start(self) -> BLR:
        """An engine in a process that knows nothing."""
        pyro.clear_param_store()
        model = self.model()
        return BLR(model, self.guide(model), self.optim(), on_sampled="ignore", **self.options)

    def go_on(self, blr: BLR, steps: range) -> list[tuple[float, Safety]]:
        """The losses of some steps, and what was tried to take them."""
        return [(blr.step(*self.args(i)), blr.info.safety) for i in steps]


def of(model: Callable[..., Any]) -> Callable[[], Callable[..., Any]]:
    """A maker of a function that is the same in every process."""
    return lambda: model


RUNS = [
    Run("conjugate, joint", of(regression)),
    Run("conjugate, by site", of(regression), options={"blocks": "site"}),
    Run("quadrature", of(logistic)),
    Run("halved steps", of(coupled), options={"blocks": "site"}),
    Run("shared covariance", of(components)),
    Run("one Gaussian", of(logistic), guide=AutoNaturalMultivariateNormal),
    Run("diagonal Gaussian", of(regression), guide=AutoNaturalNormal),
    Run("sampled", of(norm)),
    Run("low rank", of(regression), guide=AutoNaturalLowRankMultivariateNormal),
    *(
        Run(f"Pyro's {guide.__name__}", of(logistic), guide=guide)
        for guide in (
            *(AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal),
            *(AutoLaplaceApproximation, AutoIAFNormal),
        )
    ),
    Run("Pyro's AutoNormal", of(logistic), guide=AutoNormal),
    Run("Pyro's AutoDelta", of(logistic), guide=AutoDelta),
    Run("Pyro's AutoDelta, rows that are given", of(given_globals), guide=AutoDelta, args=batches),
    Run("hand-written guide", of(drawn_rows), guide=lambda _: amortised, optim=adam),
    Run("schedule", of(logistic), options={"step_size": lambda t: (t + 2) ** -0.6}),
    Run("momentum", of(logistic), options={"momentum": 0.5}),
    Run("momentum at a fixed step", of(regression), options={"momentum": 0.3, "step_size": 0.5}),
    Run("rows that are drawn", of(drawn_rows)),
    Run("rows that are drawn, momentum", of(drawn_rows), options={"momentum": 0.5}),
    Run(
        "rows that are given",
        of(given_rows),
        options={"step_size": lambda t: (t + 2) ** -0.6},
        args=batches,
    ),
    Run("EM", of(scales), options={"params": "em"}),
    Run("EM and Adam", of(shape), optim=adam, options={"params": "em"}),
    Run("natural gradient", of(scales), options={"params": "natural", "step_size": 0.5}),
    Run("Newton", of(shape), optim=adam, options={"params": "natural", "step_size": 0.5}),
    Run("online EM", of(scales_of_drawn_rows), options={"params": "natural"}),
    Run("Adam", of(scales), optim=adam),
    Run("ClippedAdam, rows that are drawn", of(scales_of_drawn_rows), optim=clipped_adam),
    Run("SGD with momentum, module", Module, optim=momentum_sgd),
    Run("EM, module", Module, optim=adam, options={"params": "em"}),
]


def on_disk(state: Any) -> Any:
    """A state as another process reads it."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def everything(blr: BLR) -> dict[str, Tensor]:
    """All tensors that a run has reached, by name."""
    found = {}
    held = {} if blr.view is None else blr.view.naturals()
    for block, natural in held.items():
        found |= {f"{block.name}, {block.family.name} {k}": n for k, n in enumerate(natural)}
    store = {f"stored {n}": t for n, t in pyro.get_param_store().named_parameters()}
    items = (*found.items(), *blr.parameters._leaves.items(), *store.items())
    return {n: t.detach().clone() for n, t in items}


def assert_same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    """Equal to the last bit."""
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name
