# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The statistics of a Gaussian block with an arrow-head precision."""

import torch
from torch import Tensor

from ..families import ArrowNormal, Natural
from ..families.arrow_matrices import Vector, pack
from .arrow_blocks import ArrowBlock
from .moments import GaussianMoments
from .statistics import (
    CROSS_COV,
    CROSS_SECOND,
    GLOBAL_COV,
    GLOBAL_MEAN,
    GLOBAL_SECOND,
    LOCAL_COV,
    LOCAL_MEAN,
    LOCAL_SECOND,
    Statistic,
)

_COVARIANCES = (GLOBAL_COV, CROSS_COV, LOCAL_COV)
_SECONDS = (GLOBAL_SECOND, CROSS_SECOND, LOCAL_SECOND)


class ArrowMoments(GaussianMoments):
    """Leaves: the mean, and the covariances that an arrow-head block holds.

    The mean of all numbers  # shape: (G + N L,), C_gg  # shape: (G, G), C_gn  # shape: (N, G, L)
    and C_nn  # shape: (N, L, L). L is differentiated in these as in any Gaussian's:

        dL/dE[g g'] = dL/dC_gg,   dL/dE[g l_n'] = dL/dC_gn,   dL/dE[l_n l_n'] = dL/dC_nn,
        dL/dE[g] = dL/dm_g - 2 dL/dC_gg m_g - sum_n dL/dC_gn m_n,
        dL/dE[l_n] = dL/dm_n - 2 dL/dC_nn m_n - dL/dC_gn' m_g.
    """

    block: ArrowBlock

    def _coordinates(self, natural: Natural) -> tuple[Tensor, ...]:
        family = self.block.family
        assert isinstance(family, ArrowNormal)
        mean, covariances = family.moments(natural)
        return pack(mean), *covariances

    @property
    def means(self) -> Vector:
        """The means of the global numbers and of each group. # shape: (G,), (N, L)"""
        flat = self.leaves[0]
        return self.block.part(False, flat), self.block.part(True, flat)

    def _statistic(self, which: Statistic) -> Tensor:
        first, local = self.means
        if which in (GLOBAL_MEAN, LOCAL_MEAN):
            return first if which == GLOBAL_MEAN else local
        if which in _COVARIANCES:
            return self.leaves[1 + _COVARIANCES.index(which)]
        covariance = self.leaves[1 + _SECONDS.index(which)]
        left = local if which == LOCAL_SECOND else first
        right = first if which == GLOBAL_SECOND else local
        return covariance + left.unsqueeze(-1) * right.unsqueeze(-2)

    def marginal(self, local: bool) -> tuple[Tensor, Tensor]:
        """The mean and covariance of the global numbers, or of each group."""
        return self.means[local], self.leaves[3 if local else 1]

    def message(self, gradient: tuple[Tensor, ...]) -> Natural:
        dmean, dfull, dcross, dlocal = gradient
        dfull, dlocal = 0.5 * (dfull + dfull.mT), 0.5 * (dlocal + dlocal.mT)
        first, local = (m.detach() for m in self.means)
        own = self.block.part(False, dmean) - 2 * (dfull @ first)
        own = own - torch.einsum("ngl,nl->g", dcross, local)
        each = self.block.part(True, dmean) - 2 * (dlocal @ local.unsqueeze(-1)).squeeze(-1)
        return own, each - dcross.mT @ first, dfull, dcross, dlocal

    def draw(self, noise: Tensor | None = None) -> Tensor:
        """Given g, a group has the mean ``m_n + C_ng C_gg^-1 (g - m_g)``. # shape: (G + N L,)"""
        flat, full, cross, local = self.leaves
        noise = torch.randn_like(flat) if noise is None else noise
        first, each = self.block.part(False, noise), self.block.part(True, noise)
        factor = torch.linalg.cholesky(full)
        columns = torch.linalg.solve_triangular(
            factor, cross.movedim(-2, 0).flatten(1), upper=False
        )
        half = columns.reshape(len(full), *local.shape[:2]).movedim(0, -2)
        given = torch.linalg.cholesky(local - half.mT @ half)
        spread = half.mT @ first + (given @ each.unsqueeze(-1)).squeeze(-1)
        return flat + pack((factor @ first, spread))
