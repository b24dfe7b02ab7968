# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A picture of a model with what an explanation says of it: tiers, families, blocks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from .drawing import Arrow, Node, Sign, draw, write
from .energy.explanation import Explanation, FactorExplanation, ParameterExplanation
from .html_table import TIER_COLOURS
from .structure import ModelSite, Structure, module_of, structure_of

GREY, FRAME = "#D9D9D9", "#555555"
OBSERVED, DISCRETE = "observed", "discrete, summed out"
POINT, COMPUTED = "a point of the guide", "deterministic"
#: The names of the distribution that ``pyro.factor`` observes.
TERMS = ("Unit",)
#: Names of a block's sites that are written out in a label.
FEW = 3


def drawable(
    explanation: Explanation,
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
) -> Explanation:
    """An explanation that can draw its model."""

    def drawer(own: Explanation, filename: Any, *, deterministic: bool, **shown: bool) -> Any:
        graph = picture(own, structure_of(model, args, kwargs, deterministic), **shown)
        if filename is not None:
            write(graph, filename)
        return graph

    return replace(explanation, drawer=drawer)


def picture(
    explanation: Explanation,
    structure: Structure,
    distributions: bool = False,
    parameters: bool = True,
) -> Any:
    """The graph of a model.

    :param distributions: whether to name the distribution of each site.
    :param parameters: whether to draw parameters and modules.
    """
    factors = _by_site(explanation)
    nodes = [_site(s, explanation, factors.get(s.name), distributions) for s in structure.sites]
    arrows = []
    known = {s.name for s in structure.sites}
    if parameters:
        nodes += [_parameter(name, explanation) for name in structure.parameters]
        known |= set(structure.parameters)
    for site in structure.sites:
        colour = _colour(factors.get(site.name))
        arrows += [Arrow(p, site.name, {"color": colour}) for p in site.parents if p in known]
    frames = {plate: _size(plate, *sizes) for plate, sizes in structure.sizes.items()}
    return draw(nodes, arrows, frames, _legend(explanation, structure, factors))


def _by_site(explanation: Explanation) -> dict[str, FactorExplanation]:
    """The factor of each site; of one that has several parts, the one on the lowest tier."""
    order = list(TIER_COLOURS)
    ordered = sorted(explanation.factors, key=lambda f: order.index(f.tier))
    return {name: f for f in ordered for name in (f.sites or (f.site,))}


def _site(
    site: ModelSite,
    explanation: Explanation,
    factor: FactorExplanation | None,
    distributions: bool,
) -> Node:
    """A site: its frame is in the colour of its factor's tier."""
    attributes = {"color": _colour(factor), "penwidth": "2.5", "style": "filled"}
    attributes |= {"shape": "ellipse", "fillcolor": "white", "tooltip": _tooltip(site, factor)}
    lines = [f"{site.name} ~ {site.distribution}" if distributions else site.name]
    if site.distribution in TERMS:
        attributes |= {"shape": "box", "fillcolor": GREY}
        lines = [site.name, "pyro.factor"]
    elif site.is_deterministic:
        attributes |= {"style": "filled,dashed", "penwidth": "1"}
        lines = [site.name]
    elif site.is_observed:
        attributes["fillcolor"] = GREY
    elif site.name in explanation.summed_out:
        attributes["shape"] = "octagon"
        lines.append("summed out")
    else:
        lines += _of_guide(site, explanation)
    return Node(site.name, tuple(lines), site.plates, attributes)


def _of_guide(site: ModelSite, explanation: Explanation) -> list[str]:
    """The family and the block of a latent."""
    blocks = explanation.blocks
    families = explanation.families or ("",) * len(blocks)
    for sites, family in zip(blocks, families, strict=True):
        if site.name in sites:
            return [*([family] if family else []), f"block {_names(sites)}"]
    return [POINT]


def _names(sites: Sequence[str]) -> str:
    more = f", ... {len(sites) - FEW} more" if len(sites) > FEW + 1 else ""
    return "{" + ", ".join(sites[: FEW if more else None]) + more + "}"


def _parameter(name: str, explanation: Explanation) -> Node:
    """A parameter, or a module, and how it moves."""
    own = {module_of(n): p for n, p in explanation.parameters.items()}
    lines = (name, *([_update(own[name])] if name in own else []))
    return Node(name, lines, (), {"shape": "plaintext", "margin": "0.05", "fontcolor": "#333333"})


def _update(parameter: ParameterExplanation) -> str:
    kind = "module" if module_of(parameter.name) != parameter.name else "parameter"
    family = f", {parameter.family}" if parameter.family else ""
    return f"{kind}: {parameter.update}{family}"


def _colour(factor: FactorExplanation | None) -> str:
    return FRAME if factor is None else TIER_COLOURS.get(factor.tier, FRAME)


def _tooltip(site: ModelSite, factor: FactorExplanation | None) -> str:
    """What is read where the mouse is over a site in an SVG."""
    if factor is None:
        return f"{site.name} ~ {site.distribution}"
    conjugate = "conjugate" if factor.conjugate else "not conjugate"
    reason = f": {factor.reason}" if factor.reason else ""
    return f"{site.name} ~ {site.distribution}; {factor.tier}, {conjugate}{reason}"


def _size(plate: str, size: int, full: int) -> str:
    """The label of a plate."""
    return f"{plate}  {full}" if size == full else f"{plate}  {size} of {full}"


def _legend(
    explanation: Explanation, structure: Structure, factors: Mapping[str, FactorExplanation]
) -> list[Sign]:
    """The tiers, and the signs, that occur."""
    drawn = {factors[s.name].tier for s in structure.sites if s.name in factors}
    signs = [Sign(t, colour, width=3) for t, colour in TIER_COLOURS.items() if t in drawn]
    if any(s.is_observed for s in structure.sites):
        signs.append(Sign(OBSERVED, GREY, GREY))
    if explanation.summed_out:
        signs.append(Sign(f"octagon: {DISCRETE}", width=0))
    if any(s.is_deterministic for s in structure.sites):
        signs.append(Sign(COMPUTED, FRAME, style="dashed"))
    return signs
