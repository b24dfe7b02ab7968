# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of one site from q given the others, for the guides in which these are known."""

import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..blr import BLR
from ..draws.fitted import Fitted
from ..draws.guides import GuideDraws, guide_draws
from ..draws.program import Program
from ..draws.together import at_draws
from ..energy.latents import Latents, block_values
from ..families import MultivariateNormal
from ..guides.protocol import LatentGuide
from ..guides.views import naturals_of
from ..lifting.blocks import Block

#: Draws at which it is tried whether the parts of a guide are independent.
TRIED = 8


@dataclass(frozen=True, eq=False)
class Unit:
    """Sites that are drawn together, given all others.

    :param sites: their names.
    :param block: the Gaussian block that holds them with others; None where q has them apart.
    """

    sites: tuple[str, ...]
    block: Block | None = None


@dataclass(frozen=True, eq=False)
class Units:
    """What q makes independent, or knows the conditional laws of.

    :param own: the fit.
    :param units: empty where q is known by its draws alone and its parts depend on each other.
    """

    own: Fitted
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    units: tuple[Unit, ...]
    caller: str

    def drawn(self, count: int) -> GuideDraws:
        """Draws of all sites."""
        return guide_draws(self.own, self.args, self.kwargs, count, self.caller)

    def given(
        self, unit: Unit, fresh: GuideDraws, anchor: int, rows: slice
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Draws of a unit where all other sites have the values of one draw, and their log q.

        :param fresh: draws of q.
        :param anchor: the draw that the other sites are held at.
        :param rows: the draws of which a unit that q has apart takes its values.
        """
        if unit.block is None:
            return {n: fresh.values[n][rows] for n in unit.sites}, fresh.log_q[unit.sites][rows]
        count = rows.stop - rows.start
        return _conditional(self.own.view, unit, fresh, anchor, count)


def units_of(own: Fitted, args: tuple[Any, ...], kwargs: Mapping[str, Any], caller: str) -> Units:
    """The units of the guide of a fit."""
    own = _seen(own, args, kwargs)
    if own.view is None:
        parts = _independent_parts(own, args, kwargs, caller)
        return Units(own, args, kwargs, tuple(map(Unit, parts)), caller)
    units: list[Unit] = []
    for block in naturals_of(own.view):
        names = tuple(s.name for s in block.sites)
        apart = len(names) > 1 and is_dense(block)
        units += [Unit((n,), block) for n in names] if apart else [Unit(names)]
    return Units(own, args, kwargs, tuple(units), caller)


def is_dense(block: Block) -> bool:
    """Whether a block has one full precision matrix, whose parts are conditional laws."""
    return (
        type(block) is Block and isinstance(block.family, MultivariateNormal) and not block.row_dims
    )


def _seen(own: Fitted, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Fitted:
    """A fit with its guide seen in natural coordinates, if it can be: SVI has not looked."""
    if own.view is not None:
        return own
    view = None
    # What the engine says of a guide that it was not asked to fit is of no concern here, and a
    # model that it cannot trace is one whose guide is known by its draws.
    with suppress(Exception), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore")
        engine = BLR(own.model, own.guide, on_sampled="ignore")
        view = engine.view if engine._rule(args, kwargs) is None else None
    return Fitted(own.model, own.guide, own.target, view, own.temperature, own.fit)


def _independent_parts(
    own: Fitted, args: tuple[Any, ...], kwargs: Mapping[str, Any], caller: str
) -> tuple[tuple[str, ...], ...]:
    """The parts of a guide that is run, if none of them depends on another; else none.

    The guide is run at values of its parts that are of different draws: the density of each must be
    what it was.
    """
    drawn = guide_draws(own, args, kwargs, TRIED, caller)
    parts = tuple(drawn.log_q)
    if len(parts) == 1:
        return parts
    mixed = {
        n: v.roll(i + 1, 0) for i, p in enumerate(parts) for n, v in drawn.values.items() if n in p
    }
    try:
        sites = at_draws(Program(own.guide, args, kwargs, caller), mixed, TRIED)
    except Exception:  # a guide that cannot be run at such values has parts that depend
        return ()
    for i, part in enumerate(parts):
        if any(n not in sites for n in part):
            return ()
        log_q = torch.stack([sites[n].total for n in part]).sum(0)
        if not torch.allclose(log_q, drawn.log_q[part].roll(i + 1, 0), rtol=1e-5, atol=1e-5):
            return ()
    return parts


def _conditional(
    view: LatentGuide, unit: Unit, fresh: GuideDraws, anchor: int, count: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Draws of one site of a Gaussian block given the others of the block, and their log q."""
    block, (name,) = unit.block, unit.sites
    assert block is not None
    first, second = (n.detach() for n in naturals_of(view)[block])
    precision = -2.0 * second
    mean = torch.linalg.solve(precision, first)
    latents: Latents = view.latents
    whole = _variables(block, latents, fresh, anchor).to(mean)
    own = torch.zeros(mean.shape[-1], dtype=torch.bool, device=mean.device)
    own[block.event_slice(latents[name].site)] = True
    among, across = precision[..., own, :][..., own], precision[..., own, :][..., ~own]
    pull = across @ (whole - mean)[..., ~own, None]
    centre = mean[..., own] - torch.linalg.solve(among, pull)[..., 0]
    law = torch.distributions.MultivariateNormal(centre, precision_matrix=among)
    drawn = law.sample((count,))
    log_q = law.log_prob(drawn).double().cpu().reshape(count, -1).sum(-1)
    variable = whole.expand(count, *whole.shape).clone()
    variable[..., own] = drawn
    cut = {s.name: v for s, v in block_values(block, latents, variable).items()}[name]
    latent = latents[name]
    if latent.transform is not None:
        exact = cut.double()
        change = latent.transform.log_abs_det_jacobian(exact, latent.transform(exact))
        log_q = log_q - change.double().cpu().reshape(count, -1).sum(-1)
    return {name: latent.value_of(cut)}, log_q


def _variables(block: Block, latents: Latents, fresh: GuideDraws, anchor: int) -> Tensor:
    """The variable of a whole block at one draw. # shape: (*batch, event)"""
    assert block.event_size is not None
    whole = torch.zeros(*block.batch_shape, block.event_size, dtype=torch.float64)
    for site in block.sites:
        latent = latents[site.name]
        value = fresh.values[site.name][anchor].double()
        variable = value if latent.transform is None else latent.transform.inv(value)
        batch = block.placements[site.name].batch_dims
        order = (*batch, *block.event_dims(site))
        part = variable.reshape(site.shape).permute(order)
        whole[..., block.event_slice(site)] = part.reshape(*block.batch_shape, -1).to(whole)
    return whole
