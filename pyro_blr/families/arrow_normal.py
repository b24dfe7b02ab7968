# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The normal distribution of global numbers and of groups of local ones, independent given them."""

import math
from typing import Any

import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.errors import ArgumentError
from pyro_blr.families import arrow_matrices, matrices
from pyro_blr.families.arrow_distribution import ArrowNormalDistribution
from pyro_blr.families.arrow_matrices import ArrowFactor, Parts, Vector
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.normal import LOG_TWO_PI
from pyro_blr.families.registry import register_family, unwrap


class ArrowNormal(ExponentialFamily):
    """Normal of z = (g, l_1, ..., l_N) whose precision matrix S has no S_nm between groups n, m.

    Given the G-vector g the L-vectors l_n are independent: S is an arrow-head matrix with the
    blocks S_gg, S_gn and S_nn. With m the mean and C = S^-1:

    - support: real vector z = (g, l_1, ..., l_N) of G + N L numbers
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (g, l_n, g g', g l_n', l_n l_n'), for n = 1, ..., N
    - natural: ((S m)_g, (S m)_n, -S_gg/2, -S_gn, -S_nn/2)
    - mean parameters: (m_g, m_n, m_g m_g' + C_gg, m_g m_n' + C_gn, m_n m_n' + C_nn)
    - log-partition: m'S m/2 - log|S|/2 + D log(2 pi)/2, D = G + N L; entropy: D/2 + D log(2 pi)/2
      - log|S|/2

    It holds G + N L + G^2 + N G L + N L^2 numbers, and every method takes O(N (L^3 + G L^2 + G^2
    L) + G^3) through the Schur complement S_gg - sum_n S_gn S_nn^-1 S_ng. C has entries C_nm
    between groups too; they are C_ng C_gg^-1 C_gm, and never formed.
    """

    name = "ArrowNormal"
    event_dim = 1
    natural_event_dims = (1, 2, 2, 3, 3)
    support = constraints.real_vector
    distribution_type = ArrowNormalDistribution
    has_rsample = True

    def log_partition(self, natural: Natural) -> Tensor:
        factor = self.factor(natural)
        constant = 0.5 * LOG_TWO_PI * self.size(natural)
        whitened = _square(factor.half_solve((natural[0], natural[1])))
        return 0.5 * whitened - factor.log_diagonal() + constant

    def mean_params(self, natural: Natural) -> MeanParams:
        (first, local), parts = self.moments(natural)
        return self.of_moments((first, local), parts)

    def natural(self, mean_params: MeanParams) -> Natural:
        mean = (mean_params[0], mean_params[1])
        outer = _outer(mean, mean)
        parts = arrow_matrices.precision_of(
            _parts(c - o for c, o in zip(mean_params[2:], outer, strict=True))
        )
        return (*arrow_matrices.apply(parts, mean), *_halved(parts))

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        if natural is None:
            raise ArgumentError(
                f"A value of {self.name} does not show how many of its numbers are global. Mend: "
                "pass the natural parameters too."
            )
        point = arrow_matrices.unpack(value, (natural[0], natural[1]))
        return (*point, *_outer(point, point))

    def in_domain(self, natural: Natural) -> Tensor:
        first, local = natural[0], natural[1]
        finite = (first.abs() < math.inf).all(-1) & (local.abs() < math.inf).flatten(-2).all(-1)
        return finite & arrow_matrices.positive_definite(self.precision(natural))

    def distribution(self, natural: Natural) -> Any:
        mean = self.factor(natural).solve((natural[0], natural[1]))
        with self.naming_domain():
            return ArrowNormalDistribution(*mean, *self.precision(natural))

    def natural_of(self, distribution: Any) -> Natural:
        arrow = unwrap(distribution)
        if not isinstance(arrow, ArrowNormalDistribution):
            raise self.wrong_distribution(distribution)
        mean, parts = (arrow.global_loc, arrow.local_loc), arrow.precision
        return (*arrow_matrices.apply(parts, mean), *_halved(parts))

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # The covector is a change of the mean parameters, hence of m and C. With E_n = -C_gg^-1
        # C_gn and K_n = S_nn^-1 = C_nn - C_ng C_gg^-1 C_gn the precision is S_gn = E_n S_nn and
        # S_gg = C_gg^-1 + sum_n E_n S_nn E_n', and each of these is differentiated below.
        mean = self.factor(natural).solve((natural[0], natural[1]))
        full, cross, local = self.precision(natural)
        d_mean = (covector[0], covector[1])
        change = zip(covector[2:], _outer(mean, d_mean), _outer(d_mean, mean), strict=True)
        d_full, d_cross, d_local = _parts(c - a - b for c, a, b in change)
        d_full, d_local = matrices.symmetric_part(d_full), matrices.symmetric_part(d_local)
        slopes = torch.cholesky_solve(cross.mT, matrices.cholesky(local))  # E_n', as S_ng
        schur = full - arrow_matrices.paired(slopes, cross.mT)  # C_gg^-1
        along = _rowwise(slopes, d_full)  # E_n' dC_gg
        d_given = d_local + along @ slopes.mT + _twice(slopes @ d_cross)
        d_local = -local @ d_given @ local
        d_slopes = -_rowwise(along + d_cross.mT, schur)  # dE_n'
        d_cross = d_slopes.mT @ local + slopes.mT @ d_local
        d_full = -schur @ d_full @ schur + _twice(arrow_matrices.paired(d_slopes, cross.mT))
        d_full = d_full + arrow_matrices.paired(slopes, d_local @ slopes)
        parts = (d_full, d_cross, d_local)
        moved = zip(
            arrow_matrices.apply(parts, mean),
            arrow_matrices.apply((full, cross, local), d_mean),
            strict=True,
        )
        return (*(a + b for a, b in moved), *_halved(parts))

    def entropy(self, natural: Natural) -> Tensor:
        constant = 0.5 * (1.0 + LOG_TWO_PI) * self.size(natural)
        entropy = constant - self.factor(natural).log_diagonal()
        return entropy.expand(self.batch_shape(natural))

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        # The factors R_q^-1 R_p = M, block by block: half of |M|^2 - D - log|M|^2 (the cross blocks
        # X_n have no diagonal), and of the squared gap of the means.
        q, p = self.factor(natural_q), self.factor(natural_p)
        mean_q = q.solve((natural_q[0], natural_q[1]))
        mean_p = p.solve((natural_p[0], natural_p[1]))
        gap = (mean_q[0] - mean_p[0], mean_q[1] - mean_p[1])
        ratio = matrices.triangular_solve(q.local, p.local)
        rest = arrow_matrices.flatten(p.cross - ratio.mT @ q.cross)
        cross = matrices.triangular_solve(q.schur, rest.mT).square().sum((-2, -1))
        spread = matrices.relative_divergence(q.local, p.local).sum(-1)
        spread = spread + matrices.relative_divergence(q.schur, p.schur) + cross
        return 0.5 * (spread + _square(p.whitened(gap)))

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        # Centred: the uncentred terms lose (m/sd)^2 eps.
        factor = self.factor(natural)
        mean = factor.solve((natural[0], natural[1]))
        point = arrow_matrices.unpack(value, mean)
        whitened = _square(factor.whitened((point[0] - mean[0], point[1] - mean[1])))
        return factor.log_diagonal() - 0.5 * LOG_TWO_PI * self.size(natural) - 0.5 * whitened

    def rsample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        # S = R R': z = R'^-1 (R^-1 S m + noise) has mean m and covariance S^-1.
        factor = self.factor(natural)
        first, local = factor.half_solve((natural[0], natural[1]))
        shape = (*sample_shape, *self.batch_shape(natural), self.size(natural))
        noise = torch.randn(shape, dtype=first.dtype, device=first.device)
        drawn = arrow_matrices.unpack(noise, (first, local))
        return arrow_matrices.pack(factor.back_solve((first + drawn[0], local + drawn[1])))

    def sample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        with torch.no_grad():
            return self.rsample(natural, sample_shape)

    def symmetrize(self, blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the blocks, with (M + M')/2 for S_gg and each S_nn; the others are not square."""
        square = (matrices.symmetric_part(blocks[2]), matrices.symmetric_part(blocks[4]))
        return blocks[0], blocks[1], square[0], blocks[3], square[1]

    # ----- What is read off the natural parameters ------------------------------------------

    def size(self, natural: Natural) -> int:
        """Return D = G + N L."""
        return natural[0].shape[-1] + natural[1].shape[-2] * natural[1].shape[-1]

    def precision(self, natural: Natural) -> Parts:
        """Return S_gg, S_gn and S_nn."""
        return -2.0 * natural[2], -natural[3], -2.0 * natural[4]

    def factor(self, natural: Natural) -> ArrowFactor:
        """Return the Cholesky factor of S; NaN outside the domain."""
        return arrow_matrices.factorise(self.precision(natural))

    def moments(self, natural: Natural) -> tuple[Vector, Parts]:
        """Return the means m_g and m_n, and the covariances C_gg, C_gn and C_nn."""
        factor = self.factor(natural)
        return factor.solve((natural[0], natural[1])), factor.inverse()

    def of_moments(self, mean: Vector, covariances: Parts) -> MeanParams:
        """Return the mean parameters from means and covariances."""
        outer = _outer(mean, mean)
        return (*mean, *(c + o for c, o in zip(covariances, outer, strict=True)))


def _parts(each: Any) -> Parts:
    full, cross, local = each
    return full, cross, local


def _halved(parts: Parts) -> Parts:
    """The natural parameters of a precision: of S_gn there are two in z'S z."""
    return -0.5 * parts[0], -parts[1], -0.5 * parts[2]


def _outer(left: Vector, right: Vector) -> Parts:
    """x_g y_g', x_g y_n' and x_n y_n'."""
    return (
        matrices.outer(left[0], right[0]),
        matrices.outer(left[0].unsqueeze(-2), right[1]),
        matrices.outer(left[1], right[1]),
    )


def _twice(matrix: Tensor) -> Tensor:
    return matrix + matrix.mT


def _rowwise(rows: Tensor, matrix: Tensor) -> Tensor:
    """A_n M for all n at once.  # shape: (*batch, N, L, G)"""
    return arrow_matrices.unflatten(arrow_matrices.flatten(rows) @ matrix, rows.shape)


def _square(vector: Vector) -> Tensor:
    """The squared length.  # shape: (*batch,)"""
    return vector[0].square().sum(-1) + vector[1].square().sum((-2, -1))


register_family(ArrowNormal)
