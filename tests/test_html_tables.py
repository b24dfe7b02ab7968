# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What a notebook shows: tables with escaped text, legible on dark and on light pages."""

import re
from html.parser import HTMLParser
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_blr import BLR, families
from pyro_blr.families.registry import registered_families
from pyro_blr.fit import Fit
from pyro_blr.guides import (
    AutoNatural,
    AutoNaturalLowRankMultivariateNormal,
    AutoNaturalMultivariateNormal,
    AutoNaturalNormal,
)
from pyro_blr.html_table import TIER_COLOURS, html_table, tier
from tests.drawn_models import MODELS, X, Y
from tests.state.runs import everything


class Page(HTMLParser):
    """The text of a page, cell by cell; a tag that is not closed is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.cells: list[str] = []
        self.text = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.open.append(tag)
        if tag in ("td", "th"):
            self.cells.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data
        if {"td", "th"} & set(self.open):
            self.cells[-1] += data


def every_object() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, model in MODELS.items():
        pyro.clear_param_store()
        guide = AutoNatural(model)
        blr = BLR(model, guide, on_sampled="ignore")
        found[f"{name}, explanation"] = blr.explain(X, Y)
        found[f"{name}, fit"] = blr.fit(X, Y, max_steps=2)
        found[f"{name}, guide"] = guide
        found |= {f"{name}, block {b.name}": b for b in guide.blocks}
    return found


def test_every_table_is_whole_and_has_no_colour_but_the_page_s_and_the_tiers() -> None:
    for name, shown in every_object().items():
        html = shown._repr_html_()
        assert Page(html).cells, name
        colours = set(re.findall(r"(?<!-)color: ([^;]+);", html))
        assert colours <= {"inherit", *TIER_COLOURS.values()}, name
        assert set(re.findall(r"background[^:]*: ([^;]+);", html)) == {"none"}, name


def test_an_explanation_shows_all_that_its_text_says() -> None:
    for model in MODELS.values():
        explanation = BLR(model, AutoNatural(model), on_sampled="ignore").explain(X, Y)
        page = Page(explanation._repr_html_())
        shown = re.sub(r"\s+", "", page.text)
        for line in str(explanation).splitlines():
            for part in re.split(r"\s{2,}", line.strip()):
                assert set(part) == {"-"} or re.sub(r"\s+", "", part) in shown, part
        pyro.clear_param_store()


def test_names_and_reasons_are_text() -> None:
    evil = '<script>alert("a")</script>&amp;'
    html = html_table(evil, [evil], [[evil]], [evil])
    assert "<script>" not in html
    assert Page(html).text.count(evil) == 4
    fit = Fit(reason=evil)
    assert evil in Page(fit._repr_html_()).text
    explanation = BLR(MODELS["named"], AutoNatural(MODELS["named"])).explain(X, Y)
    assert 'a:b "<c>" \\n' in Page(explanation._repr_html_()).cells


def test_a_tier_is_said_in_words_too() -> None:
    assert str(tier("exact")) == "exact"
    assert "exact" in Page(html_table("", ["tier"], [[tier("exact")]])).cells[1]
    assert tier("another") == "another"


@pytest.mark.parametrize("family", registered_families(), ids=lambda f: f.name)
def test_a_family_says_what_it_is(family: families.ExponentialFamily) -> None:
    page = Page(family._repr_html_())
    assert family.name in page.text
    assert family.distribution_type.__name__ in page.cells
    assert repr(family) == f"{type(family).__name__}()" or "(" in repr(family)


def test_a_count_is_shown() -> None:
    cells = Page(families.Binomial(7)._repr_html_()).cells
    assert "7" in cells


GUIDES = [
    *(AutoNatural, AutoNaturalNormal, AutoNaturalMultivariateNormal),
    AutoNaturalLowRankMultivariateNormal,
]


@pytest.mark.parametrize("kind", GUIDES)
def test_showing_a_guide_changes_nothing(kind: Any) -> None:
    model = MODELS["regression"]
    guide = kind(model)
    assert "not seen the model" in Page(guide._repr_html_()).text
    assert not guide.is_set_up
    blr = BLR(model, guide)
    blr.explain(X, Y)
    for _ in range(2):
        before, store = str(everything(blr)), list(pyro.get_param_store())
        random = torch.get_rng_state()
        guide._repr_html_()
        assert torch.equal(torch.get_rng_state(), random)
        assert str(everything(blr)) == before
        assert list(pyro.get_param_store()) == store or not store
        blr.step(X, Y)
    assert blr.num_steps == 2


def test_a_guide_shows_the_means_and_deviations_of_its_marginals() -> None:
    model = MODELS["regression"]
    guide = AutoNatural(model)
    BLR(model, guide).fit(X, Y)
    cells = Page(guide._repr_html_()).cells
    tau = guide.marginal("tau")
    assert f"{tau.mean.item():.4g}" in cells
    assert f"{tau.stddev.item():.4g}" in cells
    w = guide.marginal("w")
    assert ", ".join(f"{m:.4g}" for m in w.mean.tolist()) in cells


def test_a_marginal_without_a_mean_in_closed_form_is_left_out() -> None:
    def model() -> None:
        p = pyro.sample("p", dist.Beta(2.0, 2.0))
        pyro.sample("y", dist.Normal(p, 1.0), obs=torch.tensor(0.3))

    guide = AutoNaturalNormal(model)
    BLR(model, guide, on_sampled="ignore").step()
    cells = Page(guide._repr_html_()).cells
    assert cells[-2:] == ["-", "-"]


def test_large_sites_are_not_computed() -> None:
    def model() -> None:
        w = pyro.sample("w", dist.Normal(torch.zeros(50), 1.0).to_event(1))
        pyro.sample("y", dist.Normal(w.sum(), 1.0), obs=torch.tensor(0.3))

    guide = AutoNatural(model)
    BLR(model, guide).step()
    assert Page(guide._repr_html_()).cells[-2:] == ["...", "..."]


def test_a_fit_without_a_step_or_a_gap_says_so() -> None:
    cells = Page(Fit()._repr_html_()).cells
    assert cells[cells.index("-ELBO") + 1] == "-"
    assert cells[cells.index("gap") + 1] == "not known"
