# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The view of a hand-written mean-field guide of exponential families."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...energy.builder import EnergyBuilder
from ...energy.energy import Naturals
from ...energy.explanation import ParameterExplanation
from ...energy.parameters import Parameter
from ...families import Natural
from ...lifting.blocks import Block
from .charts import ChartedBlock, charted
from .maps import ExactMap, exact_map
from .points import PointSites
from .run import GuideRun, run_guide
from .units import NoView, Unit, points_among, units_of
from .view import View

#: Elements of the parameters of one site up to which the pulled-back Fisher matrix is solved with;
#: conjugate gradients take at most as many iterations. Encoders have more, and go to the optimiser.
MAX_ELEMENTS = 512


@dataclass(frozen=True, eq=False)
class WrittenSite:
    """A site of the guide.

    :param leaves: where it moves in a chart, the parameters' names and constraints, in order.
    """

    unit: Unit
    map: ExactMap | None
    leaves: Mapping[str, Any]


class WrittenView(View):
    """Each site has a family of its own, and its parameters depend on no other site.

    Where the parameters of the guide are the arguments of a distribution, or natural parameters,
    these are written back exactly; other maps are charts, in which a step takes the Fisher matrix
    pulled back to the guide's own unconstrained parameters.

    :param guide: the guide, or a callable part of one.
    :param sites: the sites of the model, by name.
    :raises NoView: if it is no such guide.
    """

    def __init__(
        self,
        guide: Callable[..., Any],
        sites: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
    ) -> None:
        super().__init__(guide)
        self._call = (args, kwargs)
        run, again = (run_guide(guide, args, kwargs) for _ in range(2))
        if not run.sites:
            raise NoView(f"{self.name} samples no site")
        self._draws = {n: s["value"].detach() for n, s in run.sites.items() if not s["is_observed"]}
        self._sites: dict[Block, WrittenSite] = {}
        taken: set[int] = set()
        units = units_of(guide, self.name, run.sites, sites)
        for unit in units:
            natural = unit.natural(run)
            if not _same(natural, unit.natural(again)):
                raise NoView(f"q of {unit.name!r} depends on another draw")
            self._sites[unit.block] = self._site(run, unit, natural, taken)
        latents = [latent for unit in units for latent in unit.latents]
        self.latents = {latent.name: latent for latent in latents}
        self.layout = {n.name: unit.block for unit in units for n in unit.latents}
        points = points_among(run.sites, self.latents)
        self._draws = {n: v for n, v in self._draws.items() if n not in points}
        for name, site in points.items():
            if name not in sites or not torch.equal(site["value"], again.sites[name]["value"]):
                raise NoView(f"q of {name!r} is a Delta at another draw")
        self.points = self._points(run, points, taken)
        self.charts = tuple(
            self._chart(block, s) for block, s in self._sites.items() if s.map is None
        )

    @property
    def name(self) -> str:
        return str(getattr(self.guide, "__name__", type(self.guide).__name__))

    def set_up(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], builder: EnergyBuilder | None = None
    ) -> None:
        """Keep the arguments of the call, which the guide may use."""
        self._call = (args, kwargs)

    def find_latents(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """They are known since the view was made."""

    # What a run of the guide says of a site

    def _site(self, run: GuideRun, unit: Unit, natural: Natural, taken: set[int]) -> WrittenSite:
        """How the parameters of a site move.

        :param taken: the leaves that other sites move.
        """
        used = [p for p in run.parameters.values() if _depends(natural, p.leaf)]
        if not used:
            raise NoView(f"q of {unit.name!r} has no parameter")
        if any(id(p.leaf) in taken for p in used):
            raise NoView(f"q of {unit.name!r} shares a parameter with another site")
        taken |= {id(p.leaf) for p in used}
        found = None if unit.is_embedded else exact_map(run, unit.name, unit.family, natural)
        if found is not None:
            return WrittenSite(unit, found, {})
        size = sum(p.leaf.numel() for p in used)
        if size > min(MAX_ELEMENTS, sum(n.numel() for n in natural)):
            raise NoView(
                f"q of {unit.name!r} is a function of {size} parameters, more than it has "
                "natural ones or than a pulled-back Fisher matrix is taken of"
            )
        _check_plates(unit, run.sites[unit.name], used)
        leaves = {p.name: p.constraint for p in used}
        self._check_substitution(run, unit, leaves)
        return WrittenSite(unit, None, leaves)

    def _points(
        self, run: GuideRun, points: Mapping[str, Any], taken: set[int]
    ) -> tuple[PointSites, ...]:
        if not points:
            return ()
        values = tuple(site["value"] for site in points.values())
        used = [p for p in run.parameters.values() if _depends(values, p.leaf)]
        if any(id(p.leaf) in taken for p in used):
            raise NoView(f"a point of {self.name} shares a parameter with another site")
        names = frozenset(p.name for p in used)
        return (PointSites(self.guide, frozenset(points), names),)

    def _run(self, leaves: Mapping[str, tuple[Tensor, Any]] | None = None) -> GuideRun:
        """A run at the draws of the first one, on which nothing depends."""
        return run_guide(self.guide, *self._call, leaves, self._draws)

    def _check_substitution(self, run: GuideRun, unit: Unit, leaves: Mapping[str, Any]) -> None:
        by_name = {p.name: p.leaf for p in run.parameters.values()}
        theta = tuple(by_name[n].detach().clone().requires_grad_() for n in leaves)
        natural = self._natural_at(unit, leaves, theta)
        if not all(_depends(natural, t) for t in theta):
            raise NoView(f"q of {unit.name!r} is a function of the parameters of a module")

    def _natural_at(self, unit: Unit, leaves: Mapping[str, Any], theta: Natural) -> Natural:
        """Natural parameters of a site where its parameters have the unconstrained values theta."""
        given = {n: (t, c) for (n, c), t in zip(leaves.items(), theta, strict=True)}
        return unit.natural(self._run(given))

    def _chart(self, block: Block, site: WrittenSite) -> ChartedBlock:
        return charted(block, lambda theta: self._natural_at(site.unit, site.leaves, theta))

    # Natural parameters

    def naturals(self) -> dict[Block, Natural]:
        with torch.no_grad():
            run = self._run()
        leaves = {p.name: p.leaf for p in run.parameters.values()}
        charts = {chart.inner: chart for chart in self.charts}
        result: dict[Block, Natural] = {}
        for block, site in self._sites.items():
            if block in charts:
                result[charts[block]] = tuple(leaves[n].detach() for n in site.leaves)
            else:
                result[block] = site.unit.natural(run)
        return result

    def set_naturals(self, naturals: Naturals) -> None:
        run = self._run() if self.charts else GuideRun()
        leaves = {p.name: p.leaf for p in run.parameters.values()}
        for block, natural in naturals.items():
            if isinstance(block, ChartedBlock):
                for name, value in zip(self._sites[block.inner].leaves, natural, strict=True):
                    leaves[name].copy_(value)
                continue
            found = self._sites[block].map
            assert found is not None
            found.write(natural)

    def explain(self) -> dict[str, ParameterExplanation]:
        result: dict[str, ParameterExplanation] = {}
        for site in self._sites.values():
            if site.map is not None:
                result |= site.map.explain()
                continue
            why = f"by the Fisher matrix of the {site.unit.family.name} {site.unit.name!r}"
            for name in site.leaves:
                result[name] = ParameterExplanation(
                    name, "pulled back", "", tuple(site.leaves), f"natural gradient {why}"
                )
        return result


def _check_plates(unit: Unit, site: Any, used: list[Parameter]) -> None:
    """Refuse a site whose elements are told apart by the data: the next call may have others.

    :raises NoView: if a plate's size is that of no parameter.
    """
    for frame in site["cond_indep_stack"]:
        if frame.vectorized and not any(frame.size in p.leaf.shape for p in used):
            raise NoView(
                f"q of {unit.name!r} is amortised: no parameter has the {frame.size} elements of "
                f"the plate {frame.name!r}"
            )


def _same(left: Natural, right: Natural) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def _depends(natural: Natural, leaf: Tensor) -> bool:
    if not any(n.requires_grad for n in natural):
        return False
    outputs = [n.sum() for n in natural if n.requires_grad]
    (found,) = torch.autograd.grad(outputs, [leaf], retain_graph=True, allow_unused=True)
    return found is not None
