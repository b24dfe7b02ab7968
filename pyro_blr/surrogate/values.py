# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Values of some elements of the latents, and draws of q for all others."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..energy.draws import Drawn, Draws
from ..energy.latents import Latent, Latents, block_values
from ..families import Dirichlet
from ..lifting.blocks import Block
from ..lifting.moments import Moments

#: Draws for each number that is averaged over, and the fewest and the most: with four and more
#: their second moments are exact, so that what is quadratic in Gaussians is averaged exactly.
EACH, FEWEST, MOST = 4, 64, 512


@dataclass(frozen=True)
class Given:
    """Values of a latent.

    :param element: flat position of the one element that is given; None if all of them are.
    :param variables: the variable that q describes. # shape: (values[, *variable])
    """

    variables: Tensor
    element: int | None = None


class Values:
    """Values of some elements, each together with the same draws of all others.

    :param given: by site.
    """

    def __init__(
        self, latents: Latents, moments: Mapping[Block, Moments], given: Mapping[str, Given]
    ) -> None:
        self.latents = latents
        self.given = given
        self.count = len(next(iter(given.values())).variables)
        self._moments = moments
        open_ = sum(b.numel for b in moments if not self._is_whole(b))
        wanted = min(MOST, max(FEWEST, EACH * open_)) if open_ else 2
        self.draws = Draws(latents, wanted + wanted % 2, seed=0)
        with torch.no_grad():
            self._drawn = self.draws.of_blocks(moments, tuple(moments))

    def _is_whole(self, block: Block) -> bool:
        """Whether every element of a block is given."""
        own = (self.given.get(s.name) for s in block.sites)
        return all(g is not None and g.element is None for g in own)

    def touches(self, block: Block) -> bool:
        """Whether any element of a block is given."""
        return any(s.name in self.given for s in block.sites)

    def block(self, block: Block) -> Tensor:
        """A block at every value and draw. # shape: (values * draws, *block)"""
        drawn = self._drawn[block]
        flat = drawn.reshape(1, len(drawn), -1).expand(self.count, -1, -1)
        places = _places(block, self.latents, drawn)
        for site in block.sites:
            if site.name in self.given:
                where = places[site.name].reshape(-1)
                flat = self._put(flat, where, self.given[site.name], self.latents[site.name])
        return flat.reshape(self.count * len(drawn), *drawn.shape[1:])

    def _put(self, flat: Tensor, where: Tensor, own: Given, latent: Latent) -> Tensor:
        """Put values of a latent in their places; what else is in a simplex keeps its ratios."""
        new = own.variables.reshape(self.count, 1, -1).expand(-1, flat.shape[1], -1).to(flat)
        if own.element is None:
            return flat.index_copy(-1, where, new)
        chosen = where[own.element : own.element + 1]
        if isinstance(latent.family, Dirichlet):
            size = latent.site.shape[-1]
            first = own.element - own.element % size
            row = where[first : first + size]
            left = (1 - new) / (1 - flat.index_select(-1, chosen))
            flat = flat.index_copy(-1, row, flat.index_select(-1, row) * left)
        return flat.index_copy(-1, chosen, new)

    def variables(self) -> dict[str, Tensor]:
        """The variables of all latents. # shape of each: (values * draws, *variable)"""
        placed: Drawn = {b: self.block(b) for b in self._drawn}
        return self.draws.by_site(placed)

    def averaged(self, values: Tensor) -> Tensor:
        """The average over draws. # shape: from (values * draws,) to (values,)"""
        return values.reshape(self.count, -1).mean(-1)


def _places(block: Block, latents: Latents, drawn: Tensor) -> dict[str, Tensor]:
    """Where each element of a block's sites lies in a draw of the block, laid out flat."""
    if any(s.is_discrete for s in block.sites):
        return {}
    number = torch.arange(drawn[0].numel(), dtype=torch.float64, device=drawn.device)
    found = block_values(block, latents, number.reshape(1, *drawn.shape[1:]))
    return {site.name: value[0].long() for site, value in found.items()}
