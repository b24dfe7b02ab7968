# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The normal distribution of a chain: successive vectors that meet their neighbours alone."""

import math
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import chain_matrices, matrices
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.chain_changes import change_of_inverse
from pyro_blr.families.chain_distribution import ChainNormalDistribution
from pyro_blr.families.chain_matrices import ChainFactor
from pyro_blr.families.chain_places import Parts, earlier, later, pairs
from pyro_blr.families.normal import LOG_TWO_PI
from pyro_blr.families.registry import register_family, unwrap


class ChainNormal(ExponentialFamily):
    """Normal of z = (z_1, ..., z_T) whose precision matrix S couples neighbours in time alone.

    Given its neighbours the D-vector z_t is independent of the others: S is block-tridiagonal, as
    that of a state space model. With m the mean and C = S^-1:

    - support: real T x D matrix z
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (z_t, z_t z_t', z_t z_t+1')
    - natural: ((S m)_t, -S_tt/2, -S_t,t+1)
    - mean parameters: (m_t, m_t m_t' + C_tt, m_t m_t+1' + C_t,t+1)
    - log-partition: m'S m/2 - log|S|/2 + T D log(2 pi)/2; entropy: T D/2 + T D log(2 pi)/2 -
      log|S|/2

    It holds T (D + 2 D^2) numbers, and every method takes O(T D^3) in log(T) rounds. The means and
    covariances are a Kalman smoother's. C has entries C_ts beyond neighbours too, which are never
    formed.
    """

    name = "ChainNormal"
    event_dim = 2
    natural_event_dims = (2, 3, 3)
    support = constraints.independent(constraints.real, 2)
    distribution_type = ChainNormalDistribution
    has_rsample = True

    def log_partition(self, natural: Natural) -> Tensor:
        factor = self.factor(natural)
        whitened = _square(factor.half_solve(natural[0]))
        return 0.5 * whitened - factor.log_diagonal() + 0.5 * LOG_TWO_PI * self.size(natural)

    def mean_params(self, natural: Natural) -> MeanParams:
        mean, covariances = self.moments(natural)
        return self.of_moments(mean, covariances)

    def natural(self, mean_params: MeanParams) -> Natural:
        mean, *seconds = mean_params
        outer = _outer(mean, mean)
        parts = chain_matrices.precision_of((seconds[0] - outer[0], seconds[1] - outer[1]))
        return (chain_matrices.apply(parts, mean), *_halved(parts))

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return (value, *_outer(value, value))

    def in_domain(self, natural: Natural) -> Tensor:
        finite = (natural[0].abs() < math.inf).all(-1).all(-1)
        return finite & chain_matrices.positive_definite(self.precision(natural))

    def distribution(self, natural: Natural) -> Any:
        mean = self.factor(natural).solve(natural[0])
        with self.naming_domain():
            return ChainNormalDistribution(mean, *self.precision(natural))

    def natural_of(self, distribution: Any) -> Natural:
        chain = unwrap(distribution)
        if not isinstance(chain, ChainNormalDistribution):
            raise self.wrong_distribution(distribution)
        return (chain_matrices.apply(chain.parts, chain.loc), *_halved(chain.parts))

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # The covector is a change of the mean parameters, hence of m and C. Given block t, block
        # t + 1 has the slope K_t and the covariance Q_t; with P_1 = C_11^-1 and P_t+1 = Q_t^-1 the
        # precision is S_tt = P_t + K_t'P_t+1 K_t and S_t,t+1 = -K_t'P_t+1. Each is differentiated.
        mean, covariances = self.moments(natural)
        d_mean = covector[0]
        change = zip(covector[1:], _outer(mean, d_mean), _outer(d_mean, mean), strict=True)
        d_own, d_next = (c - a - b for c, a, b in change)
        d_own = matrices.symmetric_part(d_own)
        slopes, given = chain_matrices.conditionals(covariances)
        first = covariances[0].narrow(-3, 0, 1)
        inverse = torch.cholesky_inverse(matrices.cholesky(torch.cat([first, given], -3)))
        before = matrices.cholesky(earlier(covariances[0], 2))
        d_past = earlier(d_own, 2)
        d_slopes = torch.cholesky_solve(d_next - d_past @ slopes.mT, before).mT
        d_given = later(d_own, 2) - _twice(slopes @ d_next) + slopes @ d_past @ slopes.mT
        d_inverse = -inverse @ torch.cat([d_own.narrow(-3, 0, 1), d_given], -3) @ inverse
        after, d_after = later(inverse, 2), later(d_inverse, 2)
        d_cross = -d_slopes.mT @ after - slopes.mT @ d_after
        # K'P K changes by twice dK'P K and by K'dP K.
        added = _twice(d_slopes.mT @ after @ slopes) + slopes.mT @ d_after @ slopes
        parts = (d_inverse + torch.nn.functional.pad(added, (0, 0, 0, 0, 0, 1)), d_cross)
        moved = chain_matrices.apply(parts, mean)
        return (
            moved + chain_matrices.apply(self.precision(natural), d_mean),
            *_halved(parts),
        )

    @torch.no_grad()
    def fisher(self, natural: Natural, vector: Natural) -> tuple[Tensor, ...]:
        # dm = C (d(S m) - dS m) and dC = -C dS C.
        factor = self.factor(natural)
        mean, _ = self.moments(natural, factor)
        change = -_twice(vector[1]), -vector[2]
        d_mean = factor.solve(vector[0] - chain_matrices.apply(change, mean))
        moved = zip(_outer(mean, d_mean), _outer(d_mean, mean), strict=True)
        d_covariances = change_of_inverse(factor, change)
        return d_mean, *(c + a + b for c, (a, b) in zip(d_covariances, moved, strict=True))

    def entropy(self, natural: Natural) -> Tensor:
        constant = 0.5 * (1.0 + LOG_TWO_PI) * self.size(natural)
        entropy = constant - self.factor(natural).log_diagonal()
        return entropy.expand(self.batch_shape(natural))

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        # Block by block, each given its neighbours, whose covariance under q is K: half of the
        # divergence of the conditional covariances and of the gap of the slopes, tr(S (G_q - G_p) K
        # (G_q - G_p)'), and of the squared gap of the means.
        q, p = self.factor(natural_q), self.factor(natural_p)
        gap = q.solve(natural_q[0]) - p.solve(natural_p[0])
        spread = matrices.relative_divergence(q.root, p.root)
        for own, other, left in zip(q.levels, p.levels, q.inverses[1:], strict=True):
            spread = spread + matrices.relative_divergence(own.factor, other.factor).sum(-1)
            slopes = own.slopes - other.slopes
            covariance = pairs(left, slopes.shape[-3])
            whitened = other.factor.mT @ slopes
            spread = spread + (whitened @ covariance * whitened).sum((-3, -2, -1))
        return 0.5 * (spread + _square(p.whitened(gap)))

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        # Centred: the uncentred terms lose (m/sd)^2 eps.
        factor = self.factor(natural)
        whitened = _square(factor.whitened(value - factor.solve(natural[0])))
        return factor.log_diagonal() - 0.5 * LOG_TWO_PI * self.size(natural) - 0.5 * whitened

    def rsample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        # S = R R': z = R'^-1 (R^-1 S m + noise) has mean m and covariance S^-1.
        factor = self.factor(natural)
        half = factor.half_solve(natural[0])
        shape = (*sample_shape, *self.batch_shape(natural), *natural[0].shape[-2:])
        noise = torch.randn(shape, dtype=half.dtype, device=half.device)
        return factor.back_solve(half + noise)

    def sample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(natural, sample_shape)

    def symmetrize(self, blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the blocks, with (M + M')/2 for each S_tt; the others are not symmetric."""
        return blocks[0], matrices.symmetric_part(blocks[1]), blocks[2]

    # ----- What is read off the natural parameters ------------------------------------------

    def size(self, natural: Natural) -> int:
        """Return T D."""
        return natural[0].shape[-2] * natural[0].shape[-1]

    def precision(self, natural: Natural) -> Parts:
        """Return S_tt and S_t,t+1."""
        return -2.0 * natural[1], -natural[2]

    def factor(self, natural: Natural) -> ChainFactor:
        """Return the factor of S; NaN outside the domain."""
        return chain_matrices.factorise(self.precision(natural))

    def moments(self, natural: Natural, factor: ChainFactor | None = None) -> tuple[Tensor, Parts]:
        """Return the means m_t, and the covariances C_tt and C_t,t+1.

        :param factor: that of S, if it is known.
        """
        factor = self.factor(natural) if factor is None else factor
        own, beside = factor.inverse
        if not factor.levels:  # one block: there are no neighbours, and their tensor is empty
            beside = natural[2]
        return factor.solve(natural[0]), (own, beside)

    def of_moments(self, mean: Tensor, covariances: Parts) -> MeanParams:
        """Return the mean parameters from means and covariances."""
        outer = _outer(mean, mean)
        return mean, covariances[0] + outer[0], covariances[1] + outer[1]


def _halved(parts: Parts) -> Parts:
    """The natural parameters of a precision: of S_t,t+1 there are two in z'S z."""
    return -0.5 * parts[0], -parts[1]


def _outer(left: Tensor, right: Tensor) -> Parts:
    """x_t y_t' and x_t y_t+1'."""
    own = matrices.outer(left, right)
    return own, matrices.outer(earlier(left, 1), later(right, 1))


def _twice(matrix: Tensor) -> Tensor:
    return matrix + matrix.mT


def _square(vector: Tensor) -> Tensor:
    """The squared length.  # shape: (*batch,)"""
    return vector.square().sum((-2, -1))


register_family(ChainNormal)
