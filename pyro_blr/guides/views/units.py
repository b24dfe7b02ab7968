# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The independent units of a hand-written guide: its sites, and the groups of an ``EasyGuide``."""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import pyro.distributions as dist
import torch
from pyro.contrib.easyguide import EasyGuide
from torch import Tensor

from ...energy.latents import Latent
from ...families import ExponentialFamily, Natural
from ...families.registry import unwrap
from ...lifting.blocks import Block
from ..choice import latent_of_law, unconstrained
from ..gaussian_guides import joint_block
from .run import GuideRun


class NoView(Exception):
    """A guide has no view in natural coordinates; the message says why."""


@dataclass(frozen=True, eq=False)
class Unit:
    """A site of the guide that draws latents of the model: one, or a group of them.

    :param name: the name of the guide's site.
    :param is_embedded: whether its distribution is in a smaller family than its block: independent
        elements in one Gaussian block.
    """

    name: str
    latents: tuple[Latent, ...]
    block: Block
    is_embedded: bool = False

    @property
    def family(self) -> ExponentialFamily:
        """The family of the block."""
        return self.block.family

    def natural(self, run: GuideRun) -> Natural:
        """Its natural parameters in a run of the guide, in float64 and in the block's shape."""
        law = unwrap(run.sites[self.name]["fn"])
        if self.is_embedded:
            precision = law.scale.double().square().reciprocal()
            return precision * law.loc.double(), (-0.5 * precision).diag_embed()
        if self.latents[0].transform is not None and len(self.latents) == 1:
            law = getattr(law, "base_dist", law)
        return _expanded(self.block, self.family.natural_of(law))


def units_of(guide: Any, name: str, own: Mapping[str, Any], sites: Mapping[str, Any]) -> list[Unit]:
    """The units of a guide, in its order; points are none.

    :param own: the sites of a run of the guide.
    :param sites: the sites of the model.
    :raises NoView: if a site is no exponential family.
    """
    groups = _groups(guide, name, own, sites)
    images = {latent.name for unit in groups.values() for latent in unit.latents}
    points = points_among(own, images)
    return [
        groups[n] if n in groups else _single(name, n, site, sites)
        for n, site in own.items()
        if n not in images and n not in points
    ]


def points_among(own: Mapping[str, Any], images: Container[str]) -> dict[str, Any]:
    """The sites of a guide that are point masses, and no images of a draw."""
    return {n: s for n, s in own.items() if n not in images and _is_point(s)}


def _is_point(site: Any) -> bool:
    law = unwrap(site["fn"])
    if not isinstance(law, dist.Delta) or site["infer"].get("is_auxiliary"):
        return False
    return bool((torch.as_tensor(law.log_density) == 0).all())


def _single(guide: str, name: str, site: Any, sites: Mapping[str, Any]) -> Unit:
    """A site that is a latent of the model."""
    if site["infer"].get("is_auxiliary"):
        raise NoView(f"{guide} has the auxiliary site {name!r}")
    if site["is_observed"] or site["mask"] is not None or not _is_one(site["scale"]):
        raise NoView(f"site {name!r} of {guide} is observed, masked or scaled")
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
    return Unit(name, (latent,), latent.block())


def _groups(
    guide: Any, name: str, own: Mapping[str, Any], sites: Mapping[str, Any]
) -> dict[str, Unit]:
    """The groups of an ``EasyGuide`` that one draw serves, by the name of the draw's site."""
    found: dict[str, Unit] = {}
    order = list(own)
    for group in guide.groups.values() if isinstance(guide, EasyGuide) else ():
        names = [site["name"] for site in group.prototype_sites]
        before = order[order.index(names[0]) - 1] if names[0] in order else None
        if before is None or not own[before]["infer"].get("is_auxiliary"):
            continue
        fn = own[before]["fn"]
        latents = tuple(unconstrained(n, sites[n]) for n in names)
        sizes = [prod(latent.site.shape) for latent in latents]
        law = unwrap(fn)
        is_diagonal = isinstance(law, torch.distributions.Normal)
        if (
            tuple(fn.shape()) != (sum(sizes),)
            or sizes != [group._site_sizes[n] for n in names]
            or not (is_diagonal or isinstance(law, torch.distributions.MultivariateNormal))
        ):
            raise NoView(f"the group {before!r} of {name} is no Gaussian over whole sites")
        found[before] = Unit(before, latents, joint_block(name, list(latents)), is_diagonal)
    return found


def _expanded(block: Block, natural: Natural) -> Natural:
    event = () if block.event_size is None else (block.event_size,)
    result = []
    for tensor, dims in zip(natural, block.family.natural_event_dims, strict=True):
        own = tuple(tensor.shape[tensor.dim() - dims :]) if not event else event * dims
        batch = tuple(tensor.shape[: tensor.dim() - dims])
        full = tensor.double()
        if batch != block.batch_shape:
            missing = len(block.batch_shape) - len(batch)
            full = full.reshape((1,) * missing + batch + own)
        result.append(full.expand(block.batch_shape + own))
    return tuple(result)


def _is_one(scale: Any) -> bool:
    return not isinstance(scale, Tensor) and scale == 1


def _is_subsampled(site: Any) -> bool:
    return any(f.full_size not in (None, f.size) for f in site["cond_indep_stack"])
