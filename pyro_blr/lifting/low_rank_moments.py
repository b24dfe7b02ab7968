# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The statistics of a Gaussian block whose covariance is of low rank but for its diagonal."""

import torch
from torch import Tensor

from ..families import Natural
from .low_rank import LowRankCovariance
from .low_rank_normal import LowRankNormal
from .memory import check_dense
from .moments import GaussianMoments
from .statistics import COV, MEAN, SECOND, Statistic


class LowRankMoments(GaussianMoments):
    """Leaves: the coordinates m # shape: (D,), W # shape: (D, K), log d # shape: (D,).

    The covariance as a matrix is made where a factor asks for entries off its diagonal, and no
    sooner; means, variances, draws and the entropy never need it.
    """

    def _coordinates(self, natural: Natural) -> tuple[Tensor, ...]:
        return natural

    def _statistic(self, which: Statistic) -> Tensor:
        if which == MEAN:
            return self.mean
        if which == COV:
            return self.covariance
        assert which == SECOND
        return self.covariance + self.mean.unsqueeze(-1) * self.mean.unsqueeze(-2)

    def elementwise(self, which: Statistic) -> Tensor | None:
        """The diagonal of a second moment, without the matrix. # shape: (D,)"""
        if which == COV:
            return self.variance
        return self.variance + self.mean.square() if which == SECOND else None

    @property
    def covariance(self) -> Tensor:
        """The covariance matrix. # shape: (D, D)

        :raises MemoryLimitError: if it would not fit.
        """
        _, factor, log_diagonal = self.leaves
        check_dense(self.block.name, factor.shape[-2], factor.shape[-1], factor.device)
        return factor @ factor.mT + torch.diag_embed(log_diagonal.exp())

    def precision(self) -> Tensor:
        """The inverse of the covariance, without a graph. # shape: (D, D)"""
        _, factor, log_diagonal = self.leaves
        return LowRankCovariance(factor, log_diagonal.exp()).precision()

    @property
    def variance(self) -> Tensor:
        """The marginal variances. # shape: (D,)"""
        _, factor, log_diagonal = self.leaves
        return factor.square().sum(-1) + log_diagonal.exp()

    def message(self, gradient: tuple[Tensor, ...]) -> Natural:
        """Where a full natural-gradient step ends: ``coordinates + F^-1 d(ELBO)/dcoordinates``.

        Of an exponential family that is the message dL/dmean_params itself, so that a step towards
        it, its length and its size mean the same here.
        """
        family, coordinates = self.block.family, tuple(c.detach() for c in self.natural)
        assert isinstance(family, LowRankNormal)
        covariance = family.covariance(coordinates)
        of_entropy = covariance.log_determinant_gradient()
        factor, log_diagonal = covariance.inverse_metric_times(
            (gradient[1] + of_entropy[0], gradient[2] + of_entropy[1])
        )
        step = covariance.covariance_times(gradient[0]), factor, log_diagonal
        return tuple(c + s for c, s in zip(coordinates, step, strict=True))

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """The shape of the noise of a draw: one number an element, and one a column of W."""
        _, factor, _ = self.leaves
        return (factor.shape[-2] + factor.shape[-1],)

    def draw(self, noise: Tensor | None = None, count: int = 1) -> Tensor:
        mean, factor, log_diagonal = self.leaves
        if noise is None:
            noise = torch.randn(count, *self.noise_shape).to(mean)
        own, shared = noise.split([factor.shape[-2], factor.shape[-1]], dim=-1)
        value: Tensor = mean + shared @ factor.mT + (0.5 * log_diagonal).exp() * own
        return value

    def log_prob(self, value: Tensor) -> Tensor:
        return self.block.family.log_prob(self.leaves, value)
