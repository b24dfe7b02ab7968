# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""docs/exactness.md against the package: every row of its tables is run, every list is compared."""

import ast
import re
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import transforms
from torch.nn import functional as F

from docs import tables
from pyro_blr import BLR
from pyro_blr.energy.explanation import Explanation
from pyro_blr.guides import AutoNatural
from pyro_blr.lifting.densities import registered
from pyro_blr.lifting.dispatch import OPERATIONS

PAGE = tables.PAGE.read_text()
N = 6

DATA = {
    "X": torch.sin(torch.arange(18.0)).reshape(N, 3),
    "x": torch.tensor([0.5, -1.0, 0.2, 1.3, -0.7, 0.9]),
    "n": torch.tensor([1.0, 2.0, 1.0, 3.0, 1.0, 2.0]),
    "g": torch.tensor([0, 1, 2, 0, 1, 3]),
}
LATENTS: dict[str, Callable[[], Any]] = {
    "z": lambda: dist.Normal(0.0, 1.0),
    "b": lambda: dist.Normal(0.0, 1.0),
    "w": lambda: dist.Normal(torch.zeros(3), 1.0).to_event(1),
    "u": lambda: dist.Normal(torch.zeros(4), 1.0).to_event(1),
    "tau": lambda: dist.Gamma(2.0, 2.0),
    "rate": lambda: dist.Gamma(2.0, 2.0),
    "s": lambda: dist.HalfNormal(1.0),
    "p": lambda: dist.Beta(2.0, 2.0),
    "theta": lambda: dist.Dirichlet(torch.ones(4)),
}
COUNTS = torch.tensor([0.0, 1.0, 3.0, 2.0, 1.0, 0.0])
BINARY = torch.tensor([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
KINDS = torch.tensor([0, 1, 2, 0, 1, 3])
VALUES = {
    **dict.fromkeys(("Poisson", "NegativeBinomial", "GammaPoisson", "Geometric"), COUNTS),
    **dict.fromkeys(("ZeroInflatedPoisson", "ZeroInflatedDistribution"), COUNTS),
    **dict.fromkeys(("Bernoulli", "Binomial", "BetaBinomial"), BINARY),
    **dict.fromkeys(("Multinomial", "DirichletMultinomial"), 4 * F.one_hot(KINDS, 4).double()),
    "Categorical": BINARY.long(),
    "OrderedLogistic": KINDS,
    "OneHotCategorical": F.one_hot(KINDS, 4).double(),
    "MultivariateNormal": DATA["X"],
}
SCOPE = vars(dist) | vars(transforms) | {"torch": torch, "F": F}
POSITIVE = torch.tensor([0.4, 0.9, 0.3, 0.7, 0.2, 0.6])  # inside every other support


def section(title: str, end: str = r"^#+ ") -> str:
    """The text under a heading, up to the next one (or to the next one of its own level)."""
    return re.split(end, PAGE.split(f"# {title}\n", 1)[1], maxsplit=1, flags=re.MULTILINE)[0]


def rows(title: str) -> list[tuple[str, ...]]:
    """The rows of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("|")][2:]
    return [tuple(cell.strip().strip("`") for cell in line[1:-1].split("|")) for line in lines]


def names(title: str) -> set[str]:
    """The names that a section lists: in paragraphs of nothing but names."""
    paragraphs = [" ".join(text.split()) for text in section(title).split("\n\n")]
    lists = [text for text in paragraphs if re.fullmatch(r"`\w+`(, `\w+`)*", text)]
    return set(re.findall(r"`(\w+)`", " ".join(lists)))


def used(*expressions: str) -> set[str]:
    nodes = [node for text in expressions for node in ast.walk(ast.parse(text))]
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def explained(
    latents: dict[str, Callable[[], Any]], likelihood: str
) -> tuple[AutoNatural, Explanation]:
    """A model of some latents with one likelihood of six data."""

    def model() -> None:
        values = {name: pyro.sample(name, prior()) for name, prior in latents.items()}
        scope = SCOPE | DATA | values
        with pyro.plate("data", N):
            kind = likelihood.partition("(")[0]
            pyro.sample("y", eval(likelihood, scope), obs=VALUES.get(kind, POSITIVE))

    guide = AutoNatural(model)
    return guide, BLR(model, guide, on_sampled="ignore").explain()


@pytest.mark.parametrize(("likelihood", "tier", "conjugate"), rows("Likelihoods"))
def test_likelihood(likelihood: str, tier: str, conjugate: str) -> None:
    latents = {name: LATENTS[name] for name in LATENTS if name in used(likelihood)}
    _, explanation = explained(latents, likelihood)
    factor = explanation["y"]
    assert (factor.tier, "yes" if factor.conjugate else "no") == (tier, conjugate), factor.reason
    # A row that is not exact says why.
    assert bool(factor.reason) == (not factor.conjugate)


@pytest.mark.parametrize(("prior", "likelihood", "family", "tier", "conjugate"), rows("Priors"))
def test_prior(prior: str, likelihood: str, family: str, tier: str, conjugate: str) -> None:
    guide, explanation = explained({"z": lambda: eval(prior, SCOPE)}, likelihood)
    latent, factor = guide.latents["z"], explanation["z"]
    found = latent.family.name if latent.transform is None else "unconstrained"
    assert found == family
    assert (factor.tier, "yes" if factor.conjugate else "no") == (tier, conjugate), factor.reason


def test_every_density_with_a_formula_is_listed_and_run() -> None:
    exact = [row[0] for row in rows("Likelihoods") if row[1] == "exact"]
    exact += [row[0] for row in rows("Priors") if row[3] == "exact"]
    # Constant or linear in the value: what is not exact is the latent's own transform, or the value
    # that a point mass has no density at.
    inner = {"Uniform", "ContinuousBernoulli", "Delta"}
    missing = {d.__name__ for d in registered()} - used(*exact) - inner
    assert missing == set(), "add an exact row for these"


@pytest.mark.parametrize("section", tables.SECTIONS)
def test_the_page_has_the_section(section: str) -> None:
    assert f"<!-- made by docs/tables.py: {section} -->\n{tables.SECTIONS[section]()}\n" in PAGE, (
        "run `python -m docs.tables`"
    )


def test_the_sections_are_those_of_the_page() -> None:
    marked = re.findall(r"<!-- made by docs/tables\.py: (.+) -->", PAGE)
    assert sorted(marked) == sorted(tables.SECTIONS)
    assert tables.up_to_date(PAGE) == PAGE


def test_every_operation_stands_in_a_section() -> None:
    listed = set(re.findall(r"`([\w.]+)`", section("Operations that keep a polynomial", "\n## ")))
    assert {tables.spelled(name) for name in OPERATIONS if tables.is_public(name)} <= listed
