# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Sites that discrete latents join, and the one factor that summing these out makes of them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..lifting.tensor import Call, LiftedTensor
from .eliminated import EliminatedFactor, Part, Role, is_one
from .elimination import Elimination
from .factors import Factor
from .traced import TracedSite


@dataclass(frozen=True, eq=False)
class Component:
    """Sites that depend on the same discrete latents, directly or through others.

    :param sites: in the order of the run; the discrete latents among them.
    """

    sites: tuple[TracedSite, ...]

    @property
    def latents(self) -> tuple[str, ...]:
        """The names of the discrete latents."""
        return tuple(s.name for s in self.sites if s.choice is not None)

    @property
    def name(self) -> str:
        """What the factor is called: its first latents, since there may be thousands."""
        first = self.latents[:3]
        return "+".join(first) + ("+..." if len(self.latents) > len(first) else "")

    @cached_property
    def scale(self) -> Any:
        """The scale that its discrete latents have in common."""
        scales = [s.scale for s in self.sites if s.choice is not None]
        if any(not _same(scales[0], other) for other in scales[1:]):
            raise errors.ArgumentError(
                f"the discrete latents {list(self.latents)} have different scales, so that no one "
                "sum over them is scaled. Mend: put them under the same poutine.scale and into "
                "plates that are subsampled alike."
            )
        return scales[0]


def components(sites: Sequence[TracedSite]) -> tuple[list[TracedSite], list[Component]]:
    """The sites without discrete latents, and the others by what joins them."""
    plain = [s for s in sites if not s.choices]
    groups: list[tuple[set[int], list[TracedSite]]] = []
    for site in sites:
        if not site.choices:
            continue
        touching = [g for g in groups if g[0] & site.choices]
        groups = [g for g in groups if g not in touching]
        joined = set(site.choices).union(*(g[0] for g in touching))
        groups.append((joined, [*(s for g in touching for s in g[1]), site]))
    order = {id(s): i for i, s in enumerate(sites)}
    return plain, [
        Component(tuple(sorted(members, key=lambda s: order[id(s)]))) for _, members in groups
    ]


#: Builds the part of a site that counts in a role.
BuildPart = Callable[[TracedSite, Role], Part | str]

#: Builds the sampled factor of a recorded sum, for a reason.
BuildSampled = Callable[[str, LiftedTensor], Factor]


def build_component(component: Component, build_part: BuildPart, at_draws: BuildSampled) -> Factor:
    """The factor of a component: by its expected log factors, or with the sum inside the draws."""
    sites, scale = component.sites, component.scale
    check_plates(component)
    sum_out = elimination(component)

    def sampled(reason: str) -> Factor:
        return at_draws(reason, recorded(component, sum_out))

    parts: list[Part] = []
    for site, mask in zip(sites, masks(component), strict=True):
        states = prod(site.size(dim) for dim in site.dims.choices)
        dim = None if site.choice is None else site.choice.dim
        elsewhere = 0.0 if dim is None else -math.log(site.size(dim))
        is_prior = dim is not None
        role = Role(mask, _over(site.scale, scale), states, elsewhere, dim, is_prior)
        part = build_part(site, role)
        if isinstance(part, str):
            return sampled(f"{part} (site {site.name!r})")
        parts.append(part)
    _shorten(parts, sites)
    blocks = frozenset(b for p in parts for b in p.blocks)
    names = component.latents
    return EliminatedFactor(component.name, blocks, "", parts, sum_out, names, sampled)


def check_plates(component: Component) -> None:
    """Refuse a site that depends on a discrete latent outside of the latent's own plates.

    Which element of the latent it depends on would not be known: they would be summed out as one.

    :raises ShapeError: naming both.
    """
    latents = {s.dims.choices[s.choice.dim]: s for s in component.sites if s.choice is not None}
    for site in component.sites:
        own = set(site.dims.plates.values())
        for which in site.choices & set(latents):
            outside = sorted(set(latents[which].dims.plates.values()) - own)
            if outside:
                raise errors.ShapeError(
                    f"site {site.name!r} depends on the discrete latent {latents[which].name!r} "
                    f"outside of its plate {outside[0]!r}. Mend: put the site into the same "
                    f"plate, by its name: `rows = pyro.plate({outside[0]!r}, ...)` may be entered "
                    "several times by `with rows:`. Where its elements meet each other in one site "
                    '(the pairs of a block model), BLR(..., discrete="factorised").'
                )


def _shorten(parts: list[Part], sites: Sequence[TracedSite]) -> None:
    """Let parts that are the same along plates have one element there, where another one runs.

    A prior over the classes of a million rows is one vector. The other part must be in the same
    plates at least and share a latent, so that the two are multiplied before the plate is.
    """
    along = [_plates_along(p, s) for p, s in zip(parts, sites, strict=True)]
    sharing: dict[int, set[int]] = {}
    for i, site in enumerate(sites):
        for which in site.choices:
            sharing.setdefault(which, set()).add(i)
    for i, (part, site) in enumerate(zip(parts, sites, strict=True)):
        if not (part.role.is_prior and part.role.mask is None and is_one(part.role.times)):
            continue
        own = set(site.dims.plates)
        others = {j for which in site.choices for j in sharing[which]} - {i}
        if any(own <= along[j] for j in others):
            part.role = replace(part.role, repeated=tuple(own - along[i]))


def _plates_along(part: Part, site: TracedSite) -> set[int]:
    """The dims of plates along which the elements of a part differ."""
    return {d for d in site.dims.plates if not part.repeats(d)}


def elimination(component: Component) -> Elimination:
    """How the discrete latents of a component are summed out."""
    shapes = [tuple(s.log_prob.shape) for s in component.sites]
    names = ", ".join(map(repr, component.latents[:5]))
    return Elimination([s.dims for s in component.sites], shapes, component.scale, names)


def recorded(component: Component, sum_out: Elimination) -> LiftedTensor:
    """The log of the sum as one recorded operation, to be replayed at draws of q."""
    values = summands(component)
    like = next(v for v in values if isinstance(v, LiftedTensor))
    call = Call(sum_out, tuple(values), {})
    reason = "a sum over discrete latents at each draw"
    return LiftedTensor((), torch.float64, like.device, poly=None, call=call, reason=reason)


def summands(component: Component) -> list[Any]:
    """The log density of each site inside the sum: where it counts, and times its own scale."""
    scale = component.scale
    return [_masked(s, s.log_prob, _over(s.scale, scale)) for s in component.sites]


def masks(component: Component) -> list[Tensor | None]:
    """Where each site counts.

    A discrete latent that nothing observed follows adds nothing: it is left out, as an expected log
    factor in its place would loosen the bound and pull at its parents. Its own mask is what Pyro's
    enumeration takes it for: nothing, as its density sums to 1.
    """
    found: list[Tensor | None] = []
    behind: dict[int, list[Tensor | None]] = {}
    for site in reversed(component.sites):
        own = _mask_of(site)
        if site.choice is not None:
            which = site.dims.choices[site.choice.dim]
            own = _any_of(behind.get(which, []), site)
        found.append(own)
        for which in site.choices:
            behind.setdefault(which, []).append(own)
    return found[::-1]


def _mask_of(site: TracedSite) -> Tensor | None:
    if isinstance(site.mask, Tensor):
        return site.mask
    return torch.zeros((), dtype=torch.bool) if site.mask is False else None


def _any_of(behind: list[Tensor | None], site: TracedSite) -> Tensor | None:
    """Where any of the sites that follow a latent counts, along the latent's own plates."""
    if any(mask is None for mask in behind):
        return None
    total = torch.zeros((), dtype=torch.bool)
    for mask in behind:
        assert mask is not None
        dims = tuple(d for d in range(-mask.dim(), 0) if d not in site.dims.plates)
        reduced = mask.any(dims, keepdim=True) if dims else mask
        total = total | reduced.reshape(reduced.shape[max(0, reduced.dim() - site.dims.depth) :])
    return total


def _masked(site: TracedSite, value: Any, times: Any) -> Any:
    value = value if is_one(times) else value * times
    mask = _mask_of(site)
    if mask is None or site.choice is not None:  # a prior sums to 1 whatever is observed of it
        return value
    return torch.where(mask, value, torch.zeros((), dtype=value.dtype))


def _over(scale: Any, common: Any) -> Any:
    """A site's own scale over that of the sum."""
    return 1.0 if _same(scale, common) else scale / common


def _same(left: Any, right: Any) -> bool:
    if left is right:
        return True
    if isinstance(left, Tensor) or isinstance(right, Tensor):
        return False
    return bool(left == right)
