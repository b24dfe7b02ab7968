# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The pages' tables against the package: every row is run, every list is made anew."""

import re

import pytest

from docs import running, tables
from docs.catalogue import LIKELIHOODS, PRIORS
from docs.running import names_in
from docs.spelled import SPELLINGS, call, is_by_quadrature
from pyro_blr.lifting.densities import registered
from pyro_blr.lifting.dispatch import OPERATIONS
from tests import simulated

#: The sections with rows of sparse matrices.
SPARSE = {"linear", "contraction", "predictors", "groups", "structures"}
lacks = simulated.lacks("sparse tensors")
PAGE = "\n".join(page.read_text() for page in tables.PAGES)


@pytest.mark.parametrize("law", LIKELIHOODS)
def test_a_likelihood_that_is_not_conjugate_says_why(law: str) -> None:
    factor = running.likelihood(law)["y"]
    assert bool(factor.reason) == (not factor.conjugate)


def test_every_density_with_a_formula_is_listed_and_run() -> None:
    exact = [law for law in LIKELIHOODS if running.likelihood(law)["y"].tier == "exact"]
    exact += [row[0] for row in PRIORS if running.prior(*row)["z"].tier == "exact"]
    # Linear in the value: what is not exact is the latent's own transform.
    inner = {"ContinuousBernoulli"}
    missing = {d.__name__ for d in registered()} - names_in(*exact) - inner
    assert missing == set(), "add an exact row for these"


@pytest.mark.parametrize(
    "section",
    [pytest.param(s, marks=lacks if s in SPARSE else ()) for s in tables.SECTIONS],
)
def test_the_page_has_the_section(section: str) -> None:
    """As it is made now: a row that is missing, or has moved to another tier, shows here."""
    marked = f"<!-- made by docs/tables.py: {section} -->\n"
    assert marked in PAGE
    on_page = PAGE.split(marked, 1)[1].split("<!-- end -->", 1)[0]
    assert on_page == tables.section(section) + "\n", "run `python -m docs.tables`"


@lacks
def test_the_sections_are_those_of_the_pages() -> None:
    marked = re.findall(r"<!-- made by docs/tables\.py: (.+) -->", PAGE)
    assert sorted(marked) == sorted(tables.SECTIONS)
    assert all(tables.up_to_date(page.read_text()) == page.read_text() for page in tables.PAGES)


@lacks
def test_sixty_spellings_and_more_are_exact_and_conjugate() -> None:
    rows = [line for kind in SPELLINGS for line in tables.section(kind).splitlines()[2:]]
    assert len(rows) > 200
    assert [line for line in rows if not line.endswith("| exact | yes |")] == []


@lacks
def test_every_operation_has_a_row_and_is_exact_but_for_detach() -> None:
    rows = [line for f in tables.OPERATION_FILES for line in tables.section(f).splitlines()[2:]]
    listed = set(re.findall(r"`([\w.]+)`", "\n".join(rows)))
    assert {tables.user_name(name) for name in OPERATIONS if tables.is_public(name)} <= listed
    assert [line[:10] for line in rows if not line.endswith("| exact |")] == ["| `detach`"]


def test_a_tier_in_the_tables_is_that_of_a_run() -> None:
    """The tables' own check: a model that is sampled, one by quadrature, a mean field of two."""
    assert running.likelihood("Normal(w.norm(), 1.0)").tier == "sampled"
    assert running.likelihood("StudentT(4.0, X @ w, 1.0)").tier == "quadrature"
    assert call("v.norm()") == ({"norm"}, "sampled")
    assert is_by_quadrature("cos", "Normal(0.5, 1.0)")
    assert not is_by_quadrature("round", "Normal(0.5, 1.0)")
    apart = running.coupled("tau ~ Gamma(2.0, 2.0); z ~ Normal(0.0, 1.0)", "Normal(z, tau.rsqrt())")
    assert apart.explanation.blocks == (("tau",), ("z",))
