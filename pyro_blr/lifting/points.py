# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Point masses: parameters of the model as blocks whose statistics are those of one value.

EM is the Bayesian Learning Rule with a point mass for the parameters theta and rho = 1
(arXiv 2107.04562, Table 1). Where the expected log joint is linear in the statistics T of a
conjugate family,

    L(q, theta) = <message, T(theta)> + const,

the M-step ``argmax <message, T(theta)>`` is the mode of that family at ``natural = message``. So a
point has the same statistics as a latent would have, differentiable in the *leaves* T(theta), and
its message is the gradient in them, as that of any block.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..families import Natural
from .block_moments import moments_of
from .blocks import Block
from .modes import PointFamily
from .moments import Moments
from .statistics import Statistic


@dataclass(frozen=True, eq=False)
class PointBlock(Block):
    """A block that holds one value: a parameter, or several that are maximised together.

    Its natural parameters, wherever those of blocks are asked for, are the value itself:
    ``(point,)``  # shape: (*batch[, event_size]) of a Gaussian one, else the shape of its site.

    :param point: the statistics in which L is linear, and where they are largest.
    """

    point: PointFamily = field(kw_only=True)

    @property
    def statistics(self) -> tuple[Statistic, ...]:
        """The statistics that are the leaves, in their order."""
        return self.point.statistics


class PointMoments(Moments):
    """Leaves: the statistics of a value; of its own entropy a point has nothing to say."""

    block: PointBlock

    def _coordinates(self, natural: Natural) -> tuple[Tensor, ...]:
        return self.block.point.values(natural[0])

    def _statistic(self, which: Statistic) -> Tensor:
        return self.leaves[self.block.statistics.index(which)]

    def entropy(self) -> Tensor:
        """0: the entropy of a point mass is the same constant for every value, and left out."""
        point = self.natural[0]
        return torch.zeros((), dtype=point.dtype, device=point.device)

    def message(self, gradient: tuple[Tensor, ...]) -> Natural:
        return self.block.point.symmetric(gradient)

    def draw(self, noise: Tensor | None = None, count: int = 1) -> Tensor:
        return self.natural[0].expand(count, *self.natural[0].shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """0: where a point lies says nothing of how likely it is."""
        return torch.zeros(len(value), dtype=value.dtype, device=value.device)


def statistics_of(block: Block, natural: Natural) -> Moments:
    """The statistics of a block of q, or of a point."""
    if isinstance(block, PointBlock):
        return PointMoments(block, natural)
    return moments_of(block, natural)
