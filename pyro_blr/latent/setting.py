# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A model with the arguments of one call: what its coefficients are read off."""

from dataclasses import dataclass
from math import prod

from .design import Design
from .harmonium import Datum, Harmonium, Layout
from .probe import Census
from .reading import Reading, read_data
from .spaces import Space


@dataclass(frozen=True)
class Setting:
    """A model with one call's arguments: its sites, spaces and design."""

    census: Census
    space: Space
    layout: Layout
    design: Design

    def harmonium(self) -> Harmonium:
        """The coefficients at the parameters as they are now, with their graph."""
        return Reading(self.census, self.space, self.layout, self.design).harmonium()

    def data(self) -> dict[str, Datum]:
        """The data's statistics."""
        return read_data(self.census, self.layout)


def fitted_points(space: Space) -> int:
    """How many values of the latents determine the coefficients, and as many again."""
    distinct = 0
    for part in space.parts:
        n = part.family.event_dim and prod(part.block_shapes[0])
        distinct += n + n * (n + 1) // 2 if len(part.block_shapes[-1]) == 2 else part.size
    return 2 * distinct + 16
