# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian blocks with an arrow-head precision: global sites, and local ones along a plate.

Given the global numbers the groups of local ones, one for each element of the plate, are
independent. Means and covariances are held in parts: of the global numbers, of each group, and
between them. Groups are correlated with each other through the global numbers; that part of the
covariance is never asked for, and a product that needs it raises.
"""

from dataclasses import dataclass, field

from torch import Tensor

from ..families import MultivariateNormal
from .blocks import Block
from .terms import LatentSite


@dataclass(frozen=True, eq=False)
class ArrowBlock(Block):
    """A Gaussian block whose precision is an arrow-head matrix.

    A local site's one batch dim is the plate's; a global site has none. Both are placed along the
    numbers of their own part: the G global ones, or the L of a group. The block itself has no batch
    dims, and its one event dim holds the global numbers and then group after group.

    :param str plate: the name of the plate.
    :param int groups: N, the size of the plate.
    :param int global_size: G.
    :param int local_size: L, the numbers of one group.
    """

    plate: str = field(kw_only=True)
    groups: int = field(kw_only=True)
    global_size: int = field(kw_only=True)
    local_size: int = field(kw_only=True)

    @property
    def numbers(self) -> int:
        """How many numbers its natural parameters are."""
        first, each = self.global_size, self.local_size
        return first + first * first + self.groups * each * (1 + first + each)

    def is_local(self, site: LatentSite) -> bool:
        """Whether a site has elements for each group."""
        return bool(self.placements[site.name].batch_dims)

    def span(self, site: LatentSite) -> int:
        return self.local_size if self.is_local(site) else self.global_size

    def unit(self, local: bool) -> Block:
        """The global sites, or the local ones, as a block of their own: of their marginal law."""
        sites = tuple(s for s in self.sites if self.is_local(s) == local)
        shape = (self.groups,) if local else ()
        size = self.local_size if local else self.global_size
        return Block(self.name, MultivariateNormal(), sites, shape, size, self.placements)

    def part(self, local: bool, value: Tensor) -> Tensor:
        """The global or the local numbers of a value.

        :param value: # shape: (*sample, G + N L)
        :returns: # shape: (*sample, G), or (*sample, N, L)
        """
        if not local:
            return value.narrow(-1, 0, self.global_size)
        flat = value.narrow(-1, self.global_size, self.groups * self.local_size)
        return flat.reshape(*flat.shape[:-1], self.groups, self.local_size)
