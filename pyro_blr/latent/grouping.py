# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which exponential family describes which continuous latents, and the plates of a datum."""

from collections.abc import Mapping
from math import prod
from typing import Any

import torch

from .. import errors
from ..families import ExponentialFamily, MultivariateNormal, Normal, find_family, get_family
from .harmonium import Layout
from .probe import Census, Record, fixed_draws
from .spaces import Part, Space

Families = Mapping[Any, Any]
"""Families that the user named, by site or by a tuple of sites that one of them describes."""


def space_of(census: Census, named: Families) -> Space:
    """The parts of the continuous latents; all Gaussian ones are one vector."""
    joint = {name: names for names in named if isinstance(names, tuple) for name in names}
    parts: list[Part] = []
    gaussian: list[Record] = []
    for name in census.continuous:
        site = census.sites[name]
        if name in joint:
            if joint[name][0] == name:
                sites = [census.sites[n] for n in joint[name]]
                parts.append(_joined(sites, get_family(named[joint[name]])))
        elif name in named:
            parts.append(_single(site, get_family(named[name])))
        else:
            family = _family_of(site)
            if isinstance(family, Normal | MultivariateNormal):
                gaussian.append(site)
            else:
                parts.append(_single(site, family))
    if len(gaussian) == 1 and not gaussian[0].fn.event_shape:
        parts.append(_single(gaussian[0], Normal()))
    elif gaussian:
        parts.append(_joined(gaussian, MultivariateNormal()))
    return Space(tuple(parts))


def _family_of(site: Record) -> ExponentialFamily:
    family = find_family(site.fn)
    if family is None:
        raise errors.ArgumentError(
            f"the prior of the latent {site.name!r} ({type(site.fn).__name__}) is of no registered "
            "family. Mend: name the family that its posterior is in, "
            f'conjugated(..., families={{"{site.name}": Gamma}}), or another prior.'
        )
    return family


def _single(site: Record, family: ExponentialFamily) -> Part:
    with fixed_draws():
        value = site.fn.sample().reshape(-1, *site.fn.event_shape)[0].double()
    shapes = tuple(tuple(t.shape) for t in family.sufficient_statistics(value))
    return Part((site.name,), family, (tuple(site.fn.event_shape),), False, shapes)


def _joined(sites: list[Record], family: ExponentialFamily) -> Part:
    events = tuple(tuple(s.fn.event_shape) for s in sites)
    size = sum(prod(event) for event in events)
    value = torch.ones(size, dtype=torch.float64)
    shapes = tuple(tuple(t.shape) for t in family.sufficient_statistics(value))
    return Part(tuple(s.name for s in sites), family, events, True, shapes)


def layout_of(census: Census) -> Layout:
    """The plates, and those of the latents, which must be the same for all of them."""
    depth = census.depth
    sizes = [1] * depth
    for site in census.sites.values():
        for i, size in enumerate(getattr(site.fn, "batch_shape", ())[::-1]):
            sizes[depth - 1 - i] = max(sizes[depth - 1 - i], size)
        for dim, size in site.plates.items():
            sizes[depth + dim] = max(sizes[depth + dim], size)
    owned = {name: _dims(census.sites[name]) for name in census.latents}
    first = next(iter(owned))
    for name, dims in owned.items():
        if dims != owned[first]:
            raise errors.GuideError(
                f"the latents {first!r} and {name!r} are in different plates, so that one is "
                "shared by data that have the other each to themselves: no posterior of one datum "
                "is exact. Mend: fit the model by BLR, or make the shared one a pyro.param."
            )
    return Layout(depth, tuple(sizes), owned[first])


def _dims(site: Record) -> frozenset[int]:
    batch = site.fn.batch_shape
    wide = {i - len(batch) for i, size in enumerate(batch) if size > 1}
    return frozenset(wide | set(site.plates))
