# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The view of a hand-written mean-field guide of exponential families."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from ...energy.energy import EnergyBuilder, Naturals
from ...energy.explanation import ParameterExplanation
from ...energy.latents import Latent
from ...families import ExponentialFamily, Natural
from ...families.registry import unwrap
from ...lifting.blocks import Block
from ..choice import latent_of_law
from .charts import ChartedBlock, charted
from .maps import ExactMap, exact_map
from .points import PointSites
from .run import GuideRun, run_guide
from .view import View

#: Elements of the parameters of one site up to which the pulled-back Fisher matrix is solved with;
#: conjugate gradients take at most as many iterations. Encoders have more, and go to the optimiser.
MAX_ELEMENTS = 512


class NoView(Exception):
    """A guide has no view in natural coordinates; the message says why."""


@dataclass(frozen=True, eq=False)
class WrittenSite:
    """A site of the guide.

    :param leaves: where it moves in a chart, the parameters' names and constraints, in order.
    """

    latent: Latent
    block: Block
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
        self._sites: dict[Block, WrittenSite] = {}
        taken: set[int] = set()
        points = {n: s for n, s in run.sites.items() if is_point(s)}
        for name, site in run.sites.items():
            if name in points:
                if name not in sites or not torch.equal(site["value"], again.sites[name]["value"]):
                    raise NoView(f"q of {name!r} is a Delta at another draw")
                continue
            latent = self._latent(name, site, sites)
            block = latent.block()
            natural = natural_at(site, latent, block)
            if not _same(natural, natural_at(again.sites[name], latent, block)):
                raise NoView(f"q of {name!r} depends on another draw")
            self._sites[block] = self._site(run, latent, block, natural, taken)
        self.latents = {s.latent.name: s.latent for s in self._sites.values()}
        self.layout = {s.latent.name: block for block, s in self._sites.items()}
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

    def _latent(self, name: str, site: Any, sites: Mapping[str, Any]) -> Latent:
        if site["infer"].get("is_auxiliary"):
            raise NoView(f"{self.name} has the auxiliary site {name!r}")
        if site["is_observed"] or site["mask"] is not None or not _is_one(site["scale"]):
            raise NoView(f"site {name!r} of {self.name} is observed, masked or scaled")
        if name not in sites:
            raise NoView(f"site {name!r} is not in the model")
        latent = latent_of_law(name, sites[name], site["fn"])
        if latent is None:
            law = type(unwrap(site["fn"])).__name__
            raise NoView(
                f"q of {name!r} is a {law}, which is no exponential family on its support "
                f"{sites[name]['fn'].support}"
            )
        shape = tuple(sites[name]["value"].shape)
        if tuple(site["fn"].shape()) != shape or _is_subsampled(site):
            raise NoView(f"q of {name!r} has other dims than the full plates of the model")
        return latent

    def _site(
        self, run: GuideRun, latent: Latent, block: Block, natural: Natural, taken: set[int]
    ) -> WrittenSite:
        """How the parameters of a site move.

        :param taken: the leaves that other sites move.
        """
        used = [p for p in run.parameters.values() if _depends(natural, p.leaf)]
        if not used:
            raise NoView(f"q of {latent.name!r} has no parameter")
        if any(id(p.leaf) in taken for p in used):
            raise NoView(f"q of {latent.name!r} shares a parameter with another site")
        taken |= {id(p.leaf) for p in used}
        found = exact_map(run, latent.name, latent.family, natural)
        if found is not None:
            return WrittenSite(latent, block, found, {})
        size = sum(p.leaf.numel() for p in used)
        if size > min(MAX_ELEMENTS, sum(n.numel() for n in natural)):
            raise NoView(
                f"q of {latent.name!r} is a function of {size} parameters, more than it has "
                "natural ones or than a pulled-back Fisher matrix is taken of"
            )
        leaves = {p.name: p.constraint for p in used}
        self._check_substitution(run, latent, block, leaves)
        return WrittenSite(latent, block, None, leaves)

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

    def _check_substitution(
        self, run: GuideRun, latent: Latent, block: Block, leaves: Mapping[str, Any]
    ) -> None:
        by_name = {p.name: p.leaf for p in run.parameters.values()}
        theta = tuple(by_name[n].detach().clone().requires_grad_() for n in leaves)
        natural = self._natural_at(latent, block, leaves, theta)
        if not all(_depends(natural, t) for t in theta):
            raise NoView(f"q of {latent.name!r} is a function of the parameters of a module")

    def _natural_at(
        self, latent: Latent, block: Block, leaves: Mapping[str, Any], theta: Natural
    ) -> Natural:
        """Natural parameters of a site where its parameters have the unconstrained values theta."""
        given = {n: (t, c) for (n, c), t in zip(leaves.items(), theta, strict=True)}
        run = run_guide(self.guide, *self._call, leaves=given)
        return natural_at(run.sites[latent.name], latent, block)

    def _chart(self, block: Block, site: WrittenSite) -> ChartedBlock:
        return charted(
            block, lambda theta: self._natural_at(site.latent, block, site.leaves, theta)
        )

    # Natural parameters

    def naturals(self) -> dict[Block, Natural]:
        with torch.no_grad():
            run = run_guide(self.guide, *self._call)
        leaves = {p.name: p.leaf for p in run.parameters.values()}
        charts = {chart.inner: chart for chart in self.charts}
        result: dict[Block, Natural] = {}
        for block, site in self._sites.items():
            if block in charts:
                result[charts[block]] = tuple(leaves[n].detach() for n in site.leaves)
            else:
                result[block] = natural_at(run.sites[site.latent.name], site.latent, block)
        return result

    def set_naturals(self, naturals: Naturals) -> None:
        run = run_guide(self.guide, *self._call) if self.charts else GuideRun()
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
            why = f"by the Fisher matrix of the {site.latent.family.name} {site.latent.name!r}"
            for name in site.leaves:
                result[name] = ParameterExplanation(
                    name, "pulled back", "", tuple(site.leaves), f"natural gradient {why}"
                )
        return result


def is_point(site: Any) -> bool:
    """Whether a site of a guide is a point mass, and no image of an auxiliary draw."""
    law = unwrap(site["fn"])
    if not isinstance(law, dist.Delta) or site["infer"].get("is_auxiliary"):
        return False
    density = torch.as_tensor(law.log_density)
    return bool((density == 0).all())


def natural_at(site: Any, latent: Latent, block: Block) -> Natural:
    """The natural parameters of a guide's site, in float64 and in its block's shape."""
    family: ExponentialFamily = latent.family
    law = unwrap(site["fn"])
    if latent.transform is not None:
        law = law.base_dist
    natural = family.natural_of(law)
    event = () if block.event_size is None else (block.event_size,)
    result = []
    for tensor, dims in zip(natural, family.natural_event_dims, strict=True):
        own = tuple(tensor.shape[tensor.dim() - dims :]) if not event else event * dims
        batch = tuple(tensor.shape[: tensor.dim() - dims])
        full = tensor.double()
        if batch != block.batch_shape:
            missing = len(block.batch_shape) - len(batch)
            full = full.reshape((1,) * missing + batch + own)
        result.append(full.expand(block.batch_shape + own))
    return tuple(result)


def _same(left: Natural, right: Natural) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def _depends(natural: Natural, leaf: Tensor) -> bool:
    if not any(n.requires_grad for n in natural):
        return False
    outputs = [n.sum() for n in natural if n.requires_grad]
    (found,) = torch.autograd.grad(outputs, [leaf], retain_graph=True, allow_unused=True)
    return found is not None


def _is_one(scale: Any) -> bool:
    return not isinstance(scale, Tensor) and scale == 1


def _is_subsampled(site: Any) -> bool:
    return any(f.full_size not in (None, f.size) for f in site["cond_indep_stack"])
