# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of a guide and log q of each: by its blocks, or by running it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.latents import block_values
from ..guides.protocol import LatentGuide
from ..guides.views import naturals_of, points_of
from .fitted import Fitted
from .program import Program
from .together import Site, at_draws


@dataclass(frozen=True, eq=False)
class GuideDraws:
    """Draws of q.

    :param values: by site. # shape: (S, *site)
    :param log_q: the log density of each part of q, by the sites that the part holds, given the
        parts before. # shape: (S,)
    :param points: the sites that are points, and in no part.
    :param auxiliary: what the guide draws beside the latents, which has to be integrated out before
        they have a density; there is then no part.
    """

    values: dict[str, Tensor]
    log_q: dict[tuple[str, ...], Tensor]
    points: frozenset[str]
    auxiliary: frozenset[str] = frozenset()


def guide_draws(
    fitted: Fitted, args: tuple[Any, ...], kwargs: Mapping[str, Any], num_draws: int, caller: str
) -> GuideDraws:
    """Draws of the guide of a fit."""
    with torch.no_grad():
        if fitted.view is not None:
            drawn = _of_blocks(fitted.view, num_draws)
            points = points_of(fitted.view, args, kwargs)
            values = {n: v.expand(num_draws, *v.shape) for n, v in points.items()}
            return GuideDraws({**drawn.values, **values}, drawn.log_q, frozenset(points))
        program = Program(fitted.guide, args, kwargs, caller)
        # One draw would not tell a point from what was computed of a draw.
        drawn = _of_runs(at_draws(program, {}, max(2, num_draws)))
        return GuideDraws(
            {n: v[:num_draws] for n, v in drawn.values.items()},
            {n: q[:num_draws] for n, q in drawn.log_q.items()},
            drawn.points,
            drawn.auxiliary,
        )


def _of_blocks(guide: LatentGuide, num_draws: int) -> GuideDraws:
    """Draws of a guide in natural coordinates: its blocks are independent."""
    values: dict[str, Tensor] = {}
    log_q: dict[tuple[str, ...], Tensor] = {}
    for block, held in naturals_of(guide).items():
        natural = tuple(n.detach() for n in held)
        drawn = block.family.sample(natural, (num_draws,))
        own = _summed(block.family.log_prob(natural, drawn))
        for site, variable in block_values(block, guide.latents, drawn).items():
            latent = guide.latents[site.name]
            values[site.name] = latent.value_of(variable)
            if latent.transform is not None:
                # q(value) dvalue = q(variable) dvariable, in float64 for any dtype.
                exact = variable.double()
                value = latent.transform(exact)
                own = own - _summed(latent.transform.log_abs_det_jacobian(exact, value))
        log_q[tuple(s.name for s in block.sites)] = own
    return GuideDraws({name: values[name] for name in guide.latents}, log_q, frozenset())


def _summed(log_density: Tensor) -> Tensor:
    """The sum over all dims but the first, on the host. # shape: (S,)"""
    return log_density.double().cpu().reshape(len(log_density), log_density[0].numel()).sum(-1)


# A guide that is run


def _of_runs(sites: Mapping[str, Site]) -> GuideDraws:
    """Draws of a guide that is known by running it.

    What a guide draws for the sake of other sites, as Pyro's automatic guides do, has one density
    with the sites computed from it: theirs is the change of variables.
    """
    sampled = {n: s for n, s in sites.items() if s.kind == "latent" or s.entry.is_auxiliary}
    points = frozenset(n for n, s in sampled.items() if s.entry.is_delta and not s.varies)
    values = {
        n: s.values for n, s in sampled.items() if not s.entry.is_auxiliary and s.values is not None
    }
    log_q: dict[tuple[str, ...], Tensor] = {}
    auxiliary: set[str] = set()
    for part in _parts([s for n, s in sampled.items() if n not in points]):
        auxiliary |= _beside(part)
        names = tuple(s.entry.name for s in part if not s.entry.is_auxiliary)
        key = names or tuple(s.entry.name for s in part)
        log_q[key] = torch.stack([_summed(s.log_prob) for s in part]).sum(0)
    if not values:
        raise errors.GuideError(
            "the guide samples no latent in this call. Mend: sample in it each latent of the model."
        )
    return GuideDraws(values, {} if auxiliary else log_q, points, frozenset(auxiliary))


def _beside(part: Sequence[Site]) -> set[str]:
    """The auxiliary sites of a part that has more numbers than the latents computed from them."""
    drawn = {s.entry.name: _count(s) for s in part if s.entry.is_auxiliary}
    images = sum(_count(s) for s in part if not s.entry.is_auxiliary)
    return set(drawn) if sum(drawn.values()) > images else set()


def _count(site: Site) -> int:
    return 0 if site.entry.value is None else site.entry.value.numel()


def _parts(sites: Sequence[Site]) -> Iterator[list[Site]]:
    """Sites that have one density: auxiliary ones with those computed from them behind them."""
    part: list[Site] = []
    for site in sites:
        entry = site.entry
        begins = entry.is_auxiliary and any(not s.entry.is_auxiliary for s in part)
        is_image = entry.is_delta and any(s.entry.is_auxiliary for s in part)
        if part and (begins or not (entry.is_auxiliary or is_image)):
            yield part
            part = []
        part.append(site)
    if part:
        yield part
