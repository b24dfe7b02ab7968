# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Running the rows of the documentation's tables, to see which tier ``BLR.explain`` finds."""

import ast
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch.distributions import transforms
from torch.nn import functional as F

from docs.catalogue import LATENTS
from pyro_blr import BLR
from pyro_blr.energy.explanation import Explanation, FactorExplanation
from pyro_blr.errors import ArgumentError
from pyro_blr.families import ExponentialFamily
from pyro_blr.guides import AutoNatural, AutoNaturalMultivariateNormal

N = 6
TIERS = ("exact", "quadrature", "sampled")


@contextmanager
def double() -> Iterator[None]:
    """In float64, with an empty store, and a generator of random numbers of its own."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    pyro.clear_param_store()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        pyro.clear_param_store()
        torch.set_default_dtype(before)


with double():
    DATA = {
        "X": torch.sin(torch.arange(18.0)).reshape(N, 3),
        "x": torch.tensor([0.5, -1.0, 0.2, 1.3, -0.7, 0.9]),
        "n": torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0, 2.0]),
        "g": torch.tensor([0, 1, 2, 0, 1, 3]),
    }
    COUNTS = torch.tensor([0.0, 1.0, 3.0, 2.0, 1.0, 0.0])
    BINARY = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    KINDS = torch.tensor([0, 1, 2, 0, 1, 3])
    POSITIVE = torch.tensor([0.4, 0.9, 0.3, 0.7, 0.2, 0.6])  # inside every other support
#: The observed values, by the distribution.
VALUES = {
    **dict.fromkeys(("Poisson", "NegativeBinomial", "GammaPoisson", "Geometric"), COUNTS),
    **dict.fromkeys(("ZeroInflatedPoisson", "ZeroInflatedDistribution"), COUNTS),
    "ZeroInflatedNegativeBinomial": COUNTS,
    **dict.fromkeys(("Bernoulli", "Binomial", "BetaBinomial"), BINARY),
    **dict.fromkeys(("Multinomial", "DirichletMultinomial"), 4 * F.one_hot(KINDS, 4).double()),
    "Categorical": BINARY.long(),
    "OrderedLogistic": KINDS,
    "OneHotCategorical": F.one_hot(KINDS, 4).double(),
    **dict.fromkeys(("MultivariateNormal", "LowRankMultivariateNormal"), DATA["X"]),
    "MultivariateStudentT": DATA["X"],
    "Delta": DATA["x"],
}
SCOPE: dict[str, Any] = vars(dist) | vars(transforms) | {"torch": torch, "F": F} | DATA


@dataclass(frozen=True)
class Row:
    """What ``explain`` says of a model.

    :param q: the families of its latents, by name.
    """

    explanation: Explanation
    q: Mapping[str, str]

    def __getitem__(self, site: str) -> FactorExplanation:
        return self.explanation[site]

    @property
    def tier(self) -> str:
        """The least exact tier of its factors."""
        return max((f.tier for f in self.explanation.factors), key=TIERS.index)

    @property
    def conjugate(self) -> bool:
        return all(f.conjugate for f in self.explanation.factors)


def names_in(*expressions: str) -> set[str]:
    """The names that Python expressions use."""
    nodes = [node for text in expressions for node in ast.walk(ast.parse(text))]
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def kind_of(law: str) -> str:
    """The name of the distribution that an expression makes, without ``mask`` and the like."""
    node = ast.parse(law, mode="eval").body
    while isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        node = node.func.value
    assert isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    return node.func.id


def run(model: Callable[[], None], init_scale: float = 0.1, **options: Any) -> Row:
    """What ``explain`` says of a model with a new guide."""
    with double():
        guide = AutoNatural(model, init_scale=init_scale)
        explanation = BLR(model, guide, on_sampled="ignore", **options).explain()
        family = {s.name: b.family.name for b in guide.blocks for s in b.sites}
        own = {n: latent.transform is None for n, latent in guide.latents.items()}
        return Row(explanation, {n: family[n] if own[n] else "unconstrained" for n in own})


def observe(likelihood: str, values: Mapping[str, Any]) -> None:
    """Six data of a distribution."""
    with pyro.plate("data", N):
        law = eval(likelihood, SCOPE | values)
        pyro.sample("y", law, obs=VALUES.get(kind_of(likelihood), POSITIVE))


@cache
def likelihood(law: str) -> Row:
    """A row of LIKELIHOODS."""

    def model() -> None:
        used = [name for name in LATENTS if name in names_in(law)]
        observe(law, {name: pyro.sample(name, eval(LATENTS[name], SCOPE)) for name in used})

    return run(model)


@cache
def prior(law: str, of_datum: str) -> Row:
    """A row of PRIORS."""

    def model() -> None:
        observe(of_datum, {"z": pyro.sample("z", eval(law, SCOPE))})

    return run(model)


@cache
def is_accepted(family: ExponentialFamily, latent: str) -> bool:
    """Whether the guide takes a family, named by the user, for one of LATENTS."""
    with double():
        guide = AutoNatural(
            lambda: pyro.sample(latent, eval(LATENTS[latent], SCOPE)), families={latent: family}
        )
        try:
            guide()
        except ArgumentError:
            return False
        return True


@cache
def joint_laws() -> frozenset[str]:
    """The families under which a joint guide holds two coupled latents, one of them in a plate."""

    def model() -> None:
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", N):
            pyro.sample("z", dist.Normal(mean, 1.0))

    found = set()
    for structure in ("dense", "arrow"):
        with double():
            guide = AutoNaturalMultivariateNormal(model, structure=structure)
            BLR(model, guide).step()
            found |= {block.family.name for block in guide.blocks}
    return frozenset(found)


@cache
def chain_laws() -> frozenset[str]:
    """The families under which an automatic guide holds a random walk."""

    def model() -> None:
        z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([300]).to_event(1))
        pyro.sample("walk", dist.Normal(z[:-1], 1.0).to_event(1), obs=z[1:])

    with double():
        guide = AutoNatural(model)
        BLR(model, guide).step()
    return frozenset(block.family.name for block in guide.blocks)


@cache
def coupled(priors: str, of_datum: str) -> Row:
    """A row of MODELS."""

    def model() -> None:
        values: dict[str, Any] = {}
        for statement in priors.split("; "):
            name, _, law = statement.partition(" ~ ")
            law, in_plate, _ = law.partition(" in a plate")
            with pyro.plate("data", N) if in_plate else poutine.block(hide=[]):
                values[name] = pyro.sample(name, eval(law, SCOPE | values))
        observe(of_datum, values)

    return run(model)


@cache
def parameter(name: str, made: str, of_datum: str) -> str:
    """A row of PARAMETERS: what ``explain`` says of the parameter under ``params="em"``."""

    def model() -> None:
        used = [n for n in LATENTS if n in names_in(of_datum)] or ["z"]
        values = {n: pyro.sample(n, eval(LATENTS[n], SCOPE)) for n in used}
        start, _, constraint = made.partition(", constraints.")
        support = getattr(dist.constraints, constraint or "real")
        values[name] = pyro.param(name, lambda: eval(start, SCOPE), constraint=support)
        observe(of_datum, values)

    found = run(model, params="em", optim=pyro.optim.Adam({})).explanation.parameters[name]
    return str(found).partition(": ")[2]
