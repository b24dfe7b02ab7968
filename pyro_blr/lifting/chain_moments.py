# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The statistics of a Gaussian block with a block-tridiagonal precision."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..families import ChainNormal, Natural, chain_matrices, matrices
from ..families.chain_places import earlier, later
from ..families.normal import LOG_TWO_PI
from .chain_blocks import ChainBlock
from .moments import GaussianMoments
from .statistics import CHAIN_COV, CHAIN_MEAN, CHAIN_SECOND, NEXT_COV, NEXT_SECOND, Statistic


class ChainMoments(GaussianMoments):
    """Leaves: the means, the covariances of each time, and those of each time with the next.

    m  # shape: (*batch, T, D), C  # shape: (*batch, T, D, D) and N  # shape: (*batch, T-1, D, D). L
    is differentiated in these as in any Gaussian's:

        dL/dE[z_t z_t'] = dL/dC_t,   dL/dE[z_t z_t+1'] = dL/dN_t,
        dL/dE[z_t] = dL/dm_t - 2 dL/dC_t m_t - dL/dN_t m_t+1 - dL/dN_t-1' m_t-1.
    """

    block: ChainBlock
    _log_diagonal: Tensor

    def _coordinates(self, natural: Natural) -> tuple[Tensor, ...]:
        family = self.block.family
        assert isinstance(family, ChainNormal)
        factor = family.factor(natural)
        self._log_diagonal = factor.log_diagonal()
        mean, covariances = family.moments(natural, factor)
        return mean, *covariances

    def entropy(self) -> Tensor:
        constant = 0.5 * (1.0 + LOG_TWO_PI) * self.leaves[0].numel()
        return constant - self._log_diagonal.sum()

    def _statistic(self, which: Statistic) -> Tensor:
        mean, own, beside = self.leaves
        if which == CHAIN_MEAN:
            return mean
        if which == CHAIN_COV:
            return own
        if which == NEXT_COV:
            return beside
        if which == CHAIN_SECOND:
            return own + matrices.outer(mean, mean)
        assert which == NEXT_SECOND
        return beside + matrices.outer(earlier(mean, 1), later(mean, 1))

    def message(self, gradient: tuple[Tensor, ...]) -> Natural:
        dmean, down, dbeside = gradient
        down = matrices.symmetric_part(down)
        mean = self.leaves[0].detach()
        after = matrices.apply(dbeside, later(mean, 1))
        before = matrices.apply(dbeside.mT, earlier(mean, 1))
        linear = dmean - 2 * matrices.apply(down, mean)
        return linear - pad(after, (0, 0, 0, 1)) - pad(before, (0, 0, 1, 0)), down, dbeside

    def draw(self, noise: Tensor | None = None, count: int = 1) -> Tensor:
        """Draws through the factor of the precision that has these covariances.

        :return: # shape: (count, *batch, T, D)
        """
        mean, own, beside = self.leaves
        noise = torch.randn(count, *mean.shape).to(mean) if noise is None else noise
        factor = chain_matrices.factorise(chain_matrices.precision_of((own, beside)))
        return mean + factor.back_solve(noise)

    def log_prob(self, value: Tensor) -> Tensor:
        mean, own, beside = self.leaves
        factor = chain_matrices.factorise(chain_matrices.precision_of((own, beside)))
        squares = factor.whitened(value - mean).square().sum((-2, -1))
        constant = mean.shape[-2:].numel() * LOG_TWO_PI
        density: Tensor = factor.log_diagonal() - 0.5 * (squares + constant)
        return density
