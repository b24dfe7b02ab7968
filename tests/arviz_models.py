# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Fits that ArviZ's functions are run on: the demo's, the examples', those of tutorials."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, Trace_ELBO, autoguide
from pyro.optim import Adam

from benchmarks.stan_models.counts import irt_2pl
from demo import models as demo
from examples import data, digits, gauss_mix, nile, old_faithful, topics
from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

Model = Callable[..., Any]


@dataclass(frozen=True)
class Case:
    """A fit.

    :param make: the model's arguments.
    :param guide: of Pyro, which SVI fits; AutoNatural under BLR if None.
    """

    model: Model
    make: Callable[[], tuple[Any, ...]]
    steps: int = 60
    guide: Callable[[Model], Any] | None = None

    def fit(self) -> tuple[Any, tuple[Any, ...]]:
        """The fit, and the arguments."""
        pyro.clear_param_store()
        pyro.set_rng_seed(0)
        args = self.make()
        if self.guide is None:
            blr = BLR(self.model, AutoNatural(self.model), on_sampled="ignore")
            return blr.fit(*args, max_steps=self.steps), args
        svi = SVI(self.model, self.guide(self.model), Adam({"lr": 0.05}), Trace_ELBO())
        for _ in range(self.steps):
            svi.step(*args)
        return svi, args


def faithful_args():
    rows = data.old_faithful()
    return old_faithful.standardised(rows)[0], 2


def nile_args():
    flow = data.nile()[1]
    y = (flow - nile.CENTRE) / nile.UNIT
    seen = torch.ones(len(y), dtype=torch.bool)
    seen[8:18] = False
    return y, seen


def digits_args():
    images = data.digits()[0][::30]
    return (images - images.mean(0)) / digits.UNIT, 4, 1


def answers():
    ability, difficulty = torch.randn(30), torch.linspace(-1.0, 1.0, 8)
    return (torch.bernoulli(torch.sigmoid(ability - difficulty.unsqueeze(-1))),)


def words():
    document = torch.arange(60) % 4
    return torch.where(document < 2, torch.arange(60) % 3, 3 + torch.arange(60) % 3), document, 6, 4


def two_normals():
    return (torch.cat([torch.randn(25) - 2, torch.randn(35) + 2]),)


def covariates():
    X = torch.randn(40, 3)
    return X, torch.poisson(torch.exp(0.5 + X @ torch.tensor([0.4, -0.3, 0.0])))


def poisson_regression(X, y):
    b = pyro.sample("b", dist.Normal(0.0, 2.0))
    with pyro.plate("feature", X.shape[1]):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
    with pyro.plate("row", len(y)):
        pyro.sample("y", dist.Poisson((b + X @ w).exp()), obs=y)


def homes():
    county = torch.arange(60) % 6
    floor = (torch.arange(60) % 4 == 0).double()
    return county, floor, 1.2 + 0.3 * torch.randn(6)[county] - 0.6 * floor + 0.5 * torch.randn(60)


def radon(county, floor, y):
    mu = pyro.sample("mu", dist.Normal(0.0, 3.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 3.0))
    spread = pyro.sample("spread", dist.HalfNormal(1.0))
    noise = pyro.sample("noise", dist.HalfNormal(1.0))
    with pyro.plate("county", 6):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        alpha = pyro.deterministic("alpha", mu + spread * z)
    with pyro.plate("home", len(y)):
        pyro.sample("y", dist.Normal(alpha[county] + slope * floor, noise), obs=y)


def sequences():
    return (torch.randn(8, 5) + 2.0 * (torch.arange(5) % 2),)


def markov(x):
    p = pyro.sample("p", dist.Dirichlet(torch.ones(2, 2)).to_event(1))
    mu = pyro.sample("mu", dist.Normal(torch.tensor([0.0, 2.0]), 1.0).to_event(1))
    with pyro.plate("sequence", len(x)):
        z = 0
        for t in pyro.markov(range(x.shape[1])):
            z = pyro.sample(f"z_{t}", dist.Categorical(p[z]))
            pyro.sample(f"x_{t}", dist.Normal(mu[z], 1.0), obs=x[:, t])


def visits():
    return (torch.tensor([3.0, 0.0, 5.0, 2.0, 4.0]),)


def conjugate(y):
    rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
    with pyro.plate("day", len(y)):
        pyro.sample("y", dist.Poisson(rate), obs=y)


def flow_of(model: Model) -> Any:
    return autoguide.AutoIAFNormal(model, hidden_dim=[16])


CASES = {
    **{
        problem.__name__.replace("_", " "): Case(problem().model, lambda p=problem: p().args)
        for problem in demo.PROBLEMS
    },
    "old faithful": Case(old_faithful.model, faithful_args),
    "nile": Case(nile.model, nile_args),
    "digits": Case(digits.model, digits_args, 10),
    "gauss mix": Case(gauss_mix.model, two_normals),
    "item response": Case(irt_2pl, answers, 15),
    "topics": Case(topics.model, words),
    "conjugate": Case(conjugate, visits),
    "Poisson regression": Case(poisson_regression, covariates),
    "radon": Case(radon, homes, 20),
    "hidden Markov": Case(markov, sequences),
    "SVI AutoNormal": Case(radon, homes, 200, autoguide.AutoNormal),
    "SVI AutoIAFNormal": Case(radon, homes, 200, flow_of),
    "SVI AutoDelta": Case(radon, homes, 200, autoguide.AutoDelta),
}
