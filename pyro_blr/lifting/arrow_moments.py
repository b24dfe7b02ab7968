# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The statistics of a Gaussian block with an arrow-head precision."""

import torch
from torch import Tensor

from ..families import ArrowNormal, Natural
from ..families.arrow_matrices import Vector, pack
from ..families.normal import LOG_TWO_PI
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

    def draw(self, noise: Tensor | None = None, count: int = 1) -> Tensor:
        """Given g, a group has the mean ``m_n + C_ng C_gg^-1 (g - m_g)``.

        :return: # shape: (count, G + N L)
        """
        flat = self.leaves[0]
        noise = torch.randn(count, *flat.shape).to(flat) if noise is None else noise
        factor, half, given = self._conditional()
        first, each = self._parts(noise)
        spread = torch.einsum("...g,ngl->...nl", first, half)
        spread = spread + torch.einsum("nij,...nj->...ni", given, each)
        return flat + pack((first @ factor.mT, spread))

    def log_prob(self, value: Tensor) -> Tensor:
        factor, half, given = self._conditional()
        first, each = self._parts(value - self.leaves[0])
        white = torch.linalg.solve_triangular(factor, first.unsqueeze(-1), upper=False).squeeze(-1)
        rest = each - torch.einsum("...g,ngl->...nl", white, half)
        own = torch.linalg.solve_triangular(given, rest.unsqueeze(-1), upper=False)
        squares = white.square().sum(-1) + own.square().sum((-3, -2, -1))
        logs = factor.diagonal().log().sum() + given.diagonal(dim1=-2, dim2=-1).log().sum()
        result: Tensor = -0.5 * (squares + value.shape[-1] * LOG_TWO_PI) - logs
        return result

    def _conditional(self) -> tuple[Tensor, Tensor, Tensor]:
        """The root of C_gg, ``C_gg^-1/2 C_gn``, and the root of each group's covariance given g.

        # shape: (G, G), (N, G, L) and (N, L, L)
        """
        _, full, cross, local = self.leaves
        factor = torch.linalg.cholesky(full)
        half = torch.linalg.solve_triangular(factor, cross, upper=False)
        return factor, half, torch.linalg.cholesky(local - half.mT @ half)

    def _parts(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """The global numbers and the groups' of several vectors."""
        return self.block.part(False, flat), self.block.part(True, flat)
