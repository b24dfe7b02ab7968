# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A picture of a model has its sites, plates and arrows, and what ``explain`` says of each."""

import builtins
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import graphviz
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from pyro.infer.autoguide import AutoDelta, AutoIAFNormal, AutoNormal
from pyro.infer.inspect import get_model_relations

from pyro_blr import BLR
from pyro_blr.energy.explanation import Explanation
from pyro_blr.errors import ArgumentError
from pyro_blr.guides import AutoNatural, AutoNaturalMultivariateNormal
from pyro_blr.html_table import TIER_COLOURS
from tests.drawn_models import MODELS, Linear, X, Y, named, sampled
from tests.state.runs import everything

DOCS = Path(__file__).resolve().parent.parent / "docs"


def explained(model: Any, guide: Any = AutoNatural, **options: Any) -> Explanation:
    return BLR(model, guide(model), on_sampled="ignore", **options).explain(X, Y)


def lines_of(label: str) -> list[str]:
    """The lines of a label: an escaped backslash before an n is text."""
    return re.split(r"(?<!\\)\\n", label)


class Picture:
    """What the source of a graph says, read back."""

    def __init__(self, graph: Any) -> None:
        self.source = graph.source
        quoted = r'(?:"((?:[^"\\]|\\.)*)"|(\S+?))'
        self.nodes: dict[str, dict[str, str]] = {}
        self.plates: dict[str, tuple[str, ...]] = {}
        keys: dict[str, str] = {}
        open_plates: list[str] = []
        for line in map(str.strip, self.source.splitlines()):
            if line.startswith("subgraph"):
                open_plates.append("")
            elif line == "}":
                open_plates = open_plates[:-1]
            elif open_plates and not open_plates[-1] and "label=" in line:
                open_plates[-1] = self._attributes(line, quoted)["label"]
            elif found := re.match(r"(node\d+) \[(.*)\]$", line):
                attributes = self._attributes(found[2], quoted)
                name, *_ = lines_of(attributes["label"])
                keys[found[1]] = name
                self.nodes[name] = attributes
                self.plates[name] = tuple(open_plates)
        arrows = re.findall(r'(node\d+) -> (node\d+) \[color="(.*?)"\]', self.source)
        self.arrows = {(keys[a], keys[b]): colour for a, b, colour in arrows}

    @staticmethod
    def _attributes(text: str, quoted: str) -> dict[str, str]:
        return {k: a or b for k, a, b in re.findall(rf"(\w+)={quoted}(?=[ \]]|$)", text)}

    def lines(self, name: str) -> list[str]:
        return lines_of(self.nodes[name]["label"])[1:]


def drawn(model: Any, **options: Any) -> Picture:
    return Picture(explained(model).render(**options))


# ---------------------------------------------------------------------------------- every model


@pytest.mark.parametrize("name", [n for n in MODELS if n not in ("named", "improper")])
def test_sites_arrows_and_plates_are_those_of_pyro(name: str) -> None:
    model = MODELS[name]
    explanation = explained(model)
    picture = Picture(explanation.render())
    relations = get_model_relations(model, (X, Y))
    parents = {
        **relations["sample_sample"],
        **{n: [*p, *relations["sample_sample"][n]] for n, p in relations["sample_param"].items()},
    }
    parents.pop("rate", None)  # a deterministic site, which is drawn where it is asked for
    expected = {(p, n) for n, above in parents.items() for p in above}
    modules = {(p, n) for p, n in picture.arrows if p == "net"}
    assert set(picture.arrows) - modules == expected
    assert set(parents) <= set(picture.nodes)
    for plate, names in relations["plate_sample"].items():
        for site in set(names) & set(parents):
            label = plate.split("__CLONE")[0]
            assert any(p.split("  ")[0] == label for p in picture.plates[site])


@pytest.mark.parametrize("name", MODELS)
def test_a_factor_is_in_the_colour_of_its_tier(name: str) -> None:
    explanation = explained(MODELS[name])
    picture = Picture(explanation.render())
    escaped = {f.site: graphviz.escape(f.site).replace('"', r"\"") for f in explanation.factors}
    for factor in explanation.factors:
        own = escaped[factor.site]
        if "." in own:  # a part of a chain, which has no node of its own
            continue
        colour = TIER_COLOURS[factor.tier]
        assert picture.nodes[own]["color"] == colour
        assert all(c == colour for (_, end), c in picture.arrows.items() if end == own)
        assert f">{factor.tier}<" in picture.source  # the legend has it
    missing = set(TIER_COLOURS) - {f.tier for f in explanation.factors}
    assert not any(f">{tier}<" in picture.source for tier in missing)


@pytest.mark.parametrize("name", MODELS)
def test_a_latent_has_its_family_and_its_block(name: str) -> None:
    explanation = explained(MODELS[name])
    picture = Picture(explanation.render())
    for sites, family in zip(explanation.blocks, explanation.families, strict=True):
        for site in sites:
            lines = picture.lines(graphviz.escape(site).replace('"', r"\""))
            assert lines[0] == family
            assert lines[1].startswith("block {")
            assert len(sites) > 4 or all(s in lines[1] or "<" in s for s in sites)


@pytest.mark.skipif(shutil.which("dot") is None, reason="needs the program dot")
@pytest.mark.parametrize("name", MODELS)
def test_graphviz_accepts_the_source(name: str, tmp_path: Path) -> None:
    explained(MODELS[name]).render(tmp_path / "model.svg", render_deterministic=True)
    text = (tmp_path / "model.svg").read_text()
    assert text.count('class="node"') >= 2


# -------------------------------------------------------------------------------- single shapes


def test_nested_plates_lie_in_each_other_with_their_sizes() -> None:
    picture = drawn(MODELS["hierarchical"])
    assert picture.plates["mu"] == picture.plates["sigma"] == ()
    assert picture.plates["a"] == ("state  3",)
    assert picture.plates["b"] == ("state  3", "county  2")
    assert picture.plates["y"] == ("state  3", "county  2", "row  2")


def test_crossed_plates_hold_their_own_latents_and_meet_at_the_data() -> None:
    picture = drawn(MODELS["crossed"])
    assert picture.plates["ability"] == ("students  6",)
    assert picture.plates["difficulty"] == ("questions  4",)
    assert set(picture.plates["y"]) == {"students  6", "questions  4"}


def test_a_subsampled_plate_says_how_much_it_holds() -> None:
    assert drawn(MODELS["improper"]).plates["y"] == ("data  5 of 12",)


def test_a_scale_that_is_gaussian_is_said_to_be_so_of_its_logarithm() -> None:
    assert drawn(MODELS["hierarchical"]).lines("sigma")[0] == "Normal of the logarithm"
    picture = Picture(explained(MODELS["regression"], AutoNaturalMultivariateNormal).render())
    assert picture.lines("tau") == ["MultivariateNormal (unconstrained)", "block {tau, w}"]


@pytest.mark.parametrize("discrete", ["mean_field", "marginal"])
@pytest.mark.parametrize("name", ["mixture", "hidden_markov"])
def test_a_discrete_latent_is_an_octagon_that_is_summed_out(name: str, discrete: str) -> None:
    explanation = explained(MODELS[name], discrete=discrete)
    picture = Picture(explanation.render())
    hidden = {n for n in picture.nodes if n.startswith("z")}
    assert set(explanation.summed_out) == hidden
    colour = TIER_COLOURS["exact" if discrete == "mean_field" else "sampled"]
    for latent in hidden:
        assert picture.nodes[latent]["shape"] == "octagon"
        assert picture.lines(latent) == ["summed out"]
    # The sum is one factor: also the sites without a row of their own are in its colour.
    assert {picture.nodes[n]["color"] for n in picture.nodes if n[0] in "zy"} == {colour}
    assert all(picture.nodes[n]["shape"] == "ellipse" for n in set(picture.nodes) - hidden)


def test_parameters_are_plain_text_and_say_how_they_move() -> None:
    model = MODELS["parameters"]
    picture = Picture(explained(model, params="em").render(render_deterministic=True))
    assert picture.nodes["loc"]["shape"] == "plaintext"
    assert picture.lines("loc") == ["parameter: em, Normal"]
    assert picture.lines("scale")[0].startswith("parameter: em, Gamma")
    assert ("loc", "z") in picture.arrows
    assert picture.nodes["rate"]["style"] == "filled,dashed"
    assert ("rate", "y") in picture.arrows
    assert ("z", "y") not in picture.arrows
    bare = Picture(explained(model).render(render_params=False))
    assert set(bare.nodes) == {"z", "y"}


def test_a_module_is_one_node_with_an_arrow_to_what_it_serves() -> None:
    picture = drawn(MODELS["module"])
    assert picture.lines("net") == ["module: optim"]
    assert ("net", "y") in picture.arrows
    assert ("net", "tau") not in picture.arrows


def test_a_parameter_of_a_module_of_pyro_has_an_arrow_too() -> None:
    picture = drawn(Linear())
    assert ("bias", "y") in picture.arrows
    assert ("weight", "y") in picture.arrows
    assert not any(start == "unused" for start, _ in picture.arrows)
    assert picture.lines("bias") == ["parameter: optim"]


def test_a_chain_in_one_site_is_in_the_colour_of_its_lowest_tier() -> None:
    explanation = explained(MODELS["hidden"])
    tiers = {f.site: f.tier for f in explanation.factors}
    assert tiers["y.transition"] == "exact"
    assert tiers["y"] == "quadrature"
    picture = Picture(explanation.render())
    assert set(picture.nodes) == {"p", "mu", "y"}
    assert picture.nodes["y"]["color"] == TIER_COLOURS["quadrature"]


def test_observed_sites_are_grey_and_a_term_is_a_box() -> None:
    picture = drawn(sampled)
    assert picture.nodes["obs"]["fillcolor"] == "#D9D9D9"
    assert picture.nodes["w"]["fillcolor"] == "white"
    assert picture.nodes["norm"]["shape"] == "box"
    assert picture.lines("norm") == ["pyro.factor"]


def test_distributions_are_named_where_they_are_asked_for() -> None:
    picture = drawn(MODELS["regression"], render_distributions=True)
    assert set(picture.nodes) == {"tau ~ Gamma", "w ~ Normal", "y ~ Normal"}


def test_what_has_a_meaning_to_graphviz_is_text() -> None:
    picture = drawn(named)
    assert len(picture.nodes) == 2
    (arrow,) = picture.arrows
    assert arrow == (r"a:b \"<c>\" \\n", "node0")


@pytest.mark.parametrize("guide", [AutoNormal, AutoDelta, AutoIAFNormal])
@pytest.mark.parametrize("name", ["regression", "hierarchical"])
def test_other_guides_are_drawn_too(name: str, guide: Any) -> None:
    explanation = explained(MODELS[name], guide)
    picture = Picture(explanation.render())
    for sites, family in zip(explanation.blocks, explanation.families, strict=True):
        assert all(picture.lines(site)[0] == family for site in sites)


def test_under_a_point_mass_discrete_latents_are_summed_out_too() -> None:
    model = MODELS["mixture"]
    guide = AutoDelta(pyro.poutine.block(model, hide=["z"]))
    explanation = BLR(model, guide, loss=TraceEnum_ELBO(max_plate_nesting=1)).explain(X, Y)
    picture = Picture(explanation.render())
    assert picture.nodes["z"]["shape"] == "octagon"
    assert picture.lines("mu") == ["Delta", "block {pi, mu}"]


def test_the_picture_in_the_documentation_is_that_of_its_model() -> None:
    page = (DOCS / "explain.md").read_text()
    block = re.search(r"```python\n(import pyro\n.*?)```", page, re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(block[1], names)  # a page of this repository, which its own tests run as well
    picture = Picture(names["blr"].explain(names["passed"]).render())
    stored = (DOCS / "_static" / "explained.svg").read_text()
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", stored)
    wanted = [line for n in picture.nodes for line in (n, *picture.lines(n))]
    assert not set(wanted) - set(texts)
    assert stored.count('class="node"') == len(picture.nodes) + 1  # and the legend
    assert stored.count('class="edge"') == len(picture.arrows)
    assert stored.count('class="cluster"') == 3


# ---------------------------------------------------------------------- what drawing leaves alone


@pytest.mark.parametrize("name", MODELS)
def test_drawing_changes_neither_guide_nor_parameters_nor_random_numbers(name: str) -> None:
    model = MODELS[name]
    blr = BLR(model, AutoNatural(model), on_sampled="ignore")
    explanation = blr.explain(X, Y)
    before = str(everything(blr))
    explanation.render(render_deterministic=True)
    assert str(everything(blr)) == before


def test_a_pickled_explanation_prints_the_same_and_says_that_it_cannot_draw() -> None:
    def local(x: Any, y: Any) -> None:
        MODELS["regression"](x, y)

    explanation = explained(local)
    again = pickle.loads(pickle.dumps(explanation))
    assert again == explanation
    assert str(again) == str(explanation)
    with pytest.raises(ArgumentError, match=r"pickle.*Mend: blr\.explain"):
        again.render()


# -------------------------------------------------------------------------------------- bad input


def test_without_graphviz_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    explanation = explained(MODELS["regression"])
    real = builtins.__import__

    def absent(name: str, *given: Any, **kwargs: Any) -> Any:
        if name == "graphviz":
            raise ModuleNotFoundError("No module named 'graphviz'", name="graphviz")
        return real(name, *given, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ArgumentError, match=r"Mend: pip install pyro-blr\[render\]"):
        explanation.render()


def test_without_the_program_the_error_says_where_it_comes_from(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    explanation = explained(MODELS["regression"])
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ArgumentError, match=r"program `dot`.*Mend"):
        explanation.render(tmp_path / "model.png")
    assert not (tmp_path / "model.png").exists()
    graph = explanation.render(tmp_path / "model.dot")  # the source needs no program
    assert (tmp_path / "model.dot").read_text() == graph.source


@pytest.mark.parametrize("filename", ["model", "model.", "model.nonsense"])
def test_a_name_that_says_no_kind_of_picture_is_refused(filename: str, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"ending.*Mend.*\.png"):
        explained(MODELS["regression"]).render(tmp_path / filename)
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_pyro_cannot_inspect_is_said_to_be_one() -> None:
    calls = []

    def twice(x: Any, y: Any) -> None:
        calls.append(1)
        if len(calls) > 3:
            raise RuntimeError("no more runs")
        pyro.sample("y", dist.Normal(pyro.sample("m", dist.Normal(0.0, 1.0)), 1.0), obs=y[0])

    explanation = explained(twice)
    calls.extend([1] * 3)
    with pytest.raises(ArgumentError, match=r"RuntimeError: no more runs.*Mend"):
        explanation.render()


def test_a_model_in_float32_is_drawn() -> None:
    torch.set_default_dtype(torch.float32)
    try:
        data = X.float(), Y.float()
        model = MODELS["regression"]
        explanation = BLR(model, AutoNatural(model)).explain(*data)
        assert Picture(explanation.render()).lines("tau") == ["Gamma", "block {tau}"]
    finally:
        torch.set_default_dtype(torch.float64)
