# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What single data did to the posterior mean of any function of the latents."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import errors
from ..energy.draws import Draws
from ..energy.latents import Latents, block_values
from ..estimators import gaussian_points
from ..families import Natural
from ..lifting.blocks import Block
from ..lifting.moments import Moments
from ..random_state import from_seed
from .copies import HELD
from .parts import Part
from .removal import Removal

#: Draws for each number of q, and the fewest and the most: with four and more their second moments
#: are exact, so that the mean of a quadratic in Gaussians is.
EACH, FEWEST, MOST = 4, 64, 512

Quantity = Callable[[Mapping[str, Tensor]], Any]


class Mean:
    """The posterior mean of a function of the latents, on draws that all q have in common.

    :param quantity: of a dict of the latents' values, by site, in one draw.
    """

    def __init__(self, quantity: Quantity, removal: Removal, latents: Latents) -> None:
        if not callable(quantity):
            raise errors.ArgumentError(
                f"the quantity must be a function of the latents' values, not "
                f'{type(quantity).__name__}. Mend: lambda z: z["w"][0].'
            )
        self.quantity, self.removal, self.latents = quantity, removal, latents
        moments = removal.moments_of_all
        self.noise = {b: m.noise_shape for b, m in moments.items() if not isinstance(b, HELD)}
        numbers = sum(math.prod(s) for s in self.noise.values() if s is not None)
        count = min(MOST, max(FEWEST, EACH * numbers))
        points = gaussian_points(count + count % 2, numbers, 0)
        sizes = [math.prod(s) if s is not None else 0 for s in self.noise.values()]
        self.points = dict(zip(self.noise, points.split(sizes, 1), strict=True))
        self.count = len(points)
        self.draws = Draws(latents, self.count, seed=0)

    def of_all(self) -> Tensor:
        """With all data. # shape: (*quantity,)"""
        drawn = {b: self._drawn(m, b) for b, m in self._own(self.removal.moments_of_all).items()}
        return self._evaluated(drawn).mean(0)

    def without(self, part: Part, naturals: Mapping[Block, Natural]) -> Tensor:
        """Without each datum of a part. # shape: (C, *quantity)"""
        moments, count = part.moments(naturals), part.copies.count
        drawn = {}
        for block, copied in part.copies.blocks.items():
            own = self._drawn(moments[copied], block)[:, :count]
            drawn[block] = own.reshape(-1, *own.shape[2:])
        values = self._evaluated(drawn)
        return values.reshape(self.count, count, *values.shape[1:]).mean(0)

    def _own(self, moments: Mapping[Block, Moments]) -> dict[Block, Moments]:
        return {b: m for b, m in moments.items() if b in self.noise}

    def _drawn(self, moments: Moments, block: Block) -> Tensor:
        """Draws of a block, or of its copies, by the same noise. # shape: (S, [C], *block)"""
        shape = self.noise[block]
        with torch.no_grad():
            if shape is None:
                with from_seed(0):
                    return moments.draw(None, self.count)
            own = moments.noise_shape
            assert own is not None
            noise = self.points[block].reshape(self.count, *(1,) * (len(own) - len(shape)), *shape)
            return moments.draw(noise.expand(self.count, *own).to(moments.leaves[0])).detach()

    def _evaluated(self, drawn: Mapping[Block, Tensor]) -> Tensor:
        """The quantity at draws. # shape: (draws, *quantity)"""
        variables = {
            s.name: v
            for block, draw in drawn.items()
            for s, v in block_values(block, self.latents, draw).items()
        }

        def at(variables: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
            values = {name: self.latents[name].value_of(v) for name, v in variables.items()}
            try:
                result = self.quantity(values)
            except KeyError as error:
                if error.args[:1] and error.args[0] in values:
                    raise
                raise errors.UnknownNameError(
                    f"the quantity asks for {error}, and there are {sorted(values)}. Mend: use the "
                    "names of latents."
                ) from error
            if not isinstance(result, Tensor):
                raise errors.ArgumentError(
                    f"the quantity returned {type(result).__name__}, not a tensor. Mend: a torch "
                    'function of the values, such as lambda z: z["w"][0].'
                )
            return (result.double(),)

        with torch.no_grad():
            (found,) = self.draws.mapped(at, variables)
        return found
