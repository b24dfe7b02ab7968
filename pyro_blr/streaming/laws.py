# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The law of some Gaussian sites apart from the block that they are in, and put into another."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from .. import errors
from ..energy.latents import Latents
from ..families import MultivariateNormal, Natural
from ..lifting.arrow_blocks import ArrowBlock
from ..lifting.blocks import Block, Placement
from ..lifting.chain_blocks import ChainBlock

Naturals = dict[Block, Natural]


@dataclass(frozen=True)
class Law:
    """The natural parameters of the numbers of some sites, one site after the other.

    :param names: the sites.
    :param places: the place of each number in the vector, by site.
    :param linear: # shape: (D,)
    :param square: # shape: (D, D)
    """

    names: tuple[str, ...]
    places: dict[str, Tensor]
    linear: Tensor
    square: Tensor

    def alone(self, latents: Latents) -> tuple[Block, Natural]:
        """A block of these sites and no others."""
        sites = tuple(latents[n].site for n in self.names)
        offsets, size = {}, 0
        for site in sites:
            offsets[site.name] = Placement((), size)
            size += prod(site.shape)
        at = torch.cat([self.places[n] for n in self.names])
        block = Block("+".join(self.names), MultivariateNormal(), sites, (), size, offsets)
        return block, (self.linear[at], self.square[at[:, None], at])


def shared_sites(block: Block, local: frozenset[str]) -> frozenset[str]:
    """The sites of a block that do not belong to the data."""
    return frozenset(s.name for s in block.sites) - local


def law_of(block: Block, part: Natural, local: frozenset[str]) -> Law:
    """The law of the sites of a block that are not local.

    :param part: in the block's own coordinates, as ``shared_part`` returns it.
    :raises GuideError: for a block that is no Gaussian vector.
    """
    names = tuple(s.name for s in block.sites if s.name not in local)
    if block.gaussian and block.event_size is None:
        places = torch.arange(part[0].numel())
        return Law(names, {names[0]: places}, part[0].reshape(-1), part[1].reshape(-1).diag())
    if not block.gaussian or block.batch_shape or isinstance(block, ChainBlock):
        raise errors.GuideError(
            f"the block {block.name!r} is no Gaussian vector but {block.family.name}, and holds "
            "latents of the data together with others, which are to meet data of another size. "
            'Mend: batches of one size; or BLR(..., blocks="site").'
        )
    linear, square = (part[0], part[2]) if isinstance(block, ArrowBlock) else (part[0], part[1])
    return Law(names, {n: _places(block, n) for n in names}, linear, square)


def with_law(block: Block, natural: Natural, law: Law) -> Natural | None:
    """A block's natural parameters with a law of some of its sites; None if it has no room for it.

    :param natural: its own, in which these sites are independent of all others.
    """
    if block.event_size is None:
        given = law.linear, law.square
        one = law.linear.numel() == 1 and block.gaussian
        pairs = zip(given, natural, strict=True)
        return tuple(t.reshape(n.shape) for t, n in pairs) if one else None
    if not block.gaussian or block.batch_shape or isinstance(block, ChainBlock):
        return None
    here = torch.cat([_places(block, n) for n in law.names])
    there = torch.cat([law.places[n] for n in law.names])
    parts = [t.clone() for t in natural]
    parts[0][here] = law.linear[there]
    square = parts[2 if isinstance(block, ArrowBlock) else 1]
    square[here[:, None], here] = law.square[there[:, None], there]
    return tuple(parts)


def _places(block: Block, name: str) -> Tensor:
    """Where the numbers of a site are in the vector, or among the global numbers."""
    (site,) = (s for s in block.sites if s.name == name)
    place = block.event_slice(site)
    return torch.arange(place.start, place.stop)
