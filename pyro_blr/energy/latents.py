# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What the energy must know of a latent: the variable that q describes, and the site's value."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import DeviceError
from ..families import ExponentialFamily, MultivariateNormal
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block, Placement
from ..lifting.chain_blocks import ChainBlock
from ..lifting.terms import LatentSite


@dataclass(frozen=True, eq=False)
class Latent:
    """A latent of the model.

    :param site: the variable that q describes; for a Gaussian on the unconstrained space that is
        the unconstrained variable.
    :param family: the exponential family of q for this latent alone.
    :param transform: from the variable to the site's value, or None where they are the same.
    :param plates: the plate names of the variable's batch dims, and their full sizes; a batch dim
        outside any plate is not among them.
    :param value_event_dim: the number of event dims of the site's value.
    """

    site: LatentSite
    family: ExponentialFamily
    transform: Any
    plates: Mapping[int, tuple[str, int]]
    value_event_dim: int
    dtype: torch.dtype
    device: torch.device

    def __post_init__(self) -> None:
        if self.dtype in (torch.float16, torch.bfloat16):
            raise DeviceError(
                f"latent {self.name!r} is of {self.dtype}, in which neither its law nor its log "
                "densities have digits enough. Mend: data and priors in float32 (x.float()); the "
                "weights of a network may be bfloat16 under pyro_blr.optim."
            )

    @property
    def name(self) -> str:
        """The site's name."""
        return self.site.name

    @property
    def batch_dims(self) -> tuple[int, ...]:
        """The dims of the variable that are not event dims."""
        return tuple(range(len(self.site.shape) - self.site.event_dim))

    def block(self) -> Block:
        """The block that holds this latent alone."""
        batch = self.batch_dims
        shape = tuple(self.site.shape[d] for d in batch)
        size: int | None = None
        if isinstance(self.family, MultivariateNormal):
            size = 1
            for length in self.site.shape[len(batch) :]:
                size *= length
        placements = {self.name: Placement(batch)}
        return Block(self.name, self.family, (self.site,), shape, size, placements)

    def value_of(self, variable: Tensor) -> Tensor:
        """The site's value from the variable's."""
        value = variable if self.transform is None else self.transform(variable)
        return value.to(self.dtype)


Latents = Mapping[str, Latent]


def block_values(block: Block, latents: Latents, draw: Tensor) -> dict[LatentSite, Tensor]:
    """The variables of a block's sites, cut from a draw of the block.

    :param draw: # shape: (*sample, *batch[, event_size]); rows that share a covariance are one dim
    """
    if block.row_dims:
        sample = draw.shape[: draw.dim() - len(block.own_shape) - 2]
        draw = draw.reshape(*sample, *block.batch_shape, draw.shape[-1])
    values = {}
    if block.sites[0].is_discrete:  # a draw is the value's place in the list
        (site,) = block.sites
        return {site: site.values_at(draw).to(latents[site.name].dtype)}
    for site in block.sites:
        values[site] = cut(block, site, draw, len(block.batch_shape)).to(latents[site.name].dtype)
    return values


def cut(block: Block, site: LatentSite, value: Tensor, batch_ndim: int) -> Tensor:
    """A site's part of a tensor with the block's batch dims and, perhaps, its event dim."""
    if block.event_size is None:
        return value
    if isinstance(block, ArrowBlock):
        value, batch_ndim = block.part(block.is_local(site), value), int(block.is_local(site))
    if isinstance(block, ChainBlock):
        unit = block.unit(site)
        return cut(unit, site, block.part(site, value), len(unit.batch_shape))
    place = block.event_slice(site)
    part = value.narrow(-1, place.start, place.stop - place.start)
    batch_dims = block.placements[site.name].batch_dims
    event_dims = block.event_dims(site)
    sample = value.dim() - 1 - batch_ndim
    part = part.reshape([*part.shape[:-1], *(site.shape[d] for d in event_dims)])
    order = (*batch_dims, *event_dims)
    places = [sample + order.index(d) for d in range(len(site.shape))]
    return part.permute([*range(sample), *places])
