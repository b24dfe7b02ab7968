# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The normal distribution of a real vector, with a full covariance."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.gamma_functions import bregman_log
from pyro_blr.families.normal import LOG_TWO_PI
from pyro_blr.families.registry import register_family, unwrap


def _cholesky(matrix: Tensor) -> Tensor:
    """Return the lower Cholesky factor, NaN where there is none, without a host read."""
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    # Where it fails LAPACK leaves a half-finished factor, which would pass for a result.
    return factor.masked_fill((info != 0).unsqueeze(-1).unsqueeze(-1), math.nan)


def _solve(factor: Tensor, vector: Tensor) -> Tensor:
    """Return (L L')^-1 vector."""
    return torch.cholesky_solve(vector.unsqueeze(-1), factor).squeeze(-1)


def _triangular_solve(factor: Tensor, columns: Tensor, upper: bool = False) -> Tensor:
    """Return factor^-1 columns."""
    solved: Tensor = torch.linalg.solve_triangular(factor, columns, upper=upper)
    return solved


def _outer(left: Tensor, right: Tensor) -> Tensor:
    return left.unsqueeze(-1) * right.unsqueeze(-2)


def _log_diagonal(factor: Tensor) -> Tensor:
    return factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


class MultivariateNormal(ExponentialFamily):
    """Normal of a D-vector with mean m and precision matrix S.

    - support: real D-vector z
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (z, z z')
    - natural: (S m, -S/2)
    - mean parameters: (m, m m' + S^-1)
    - log-partition: m'S m/2 - log|S|/2 + D log(2 pi)/2; entropy: D/2 + D log(2 pi)/2 - log|S|/2

    The matrix block is symmetric; only its lower triangle is factorised.
    """

    name = "MultivariateNormal"
    event_dim = 1
    natural_event_dims = (1, 2)
    support = constraints.real_vector
    distribution_type = dist.MultivariateNormal
    has_rsample = True

    def log_partition(self, natural: Natural) -> Tensor:
        factor = _cholesky(-2.0 * natural[1])
        whitened = _triangular_solve(factor, natural[0].unsqueeze(-1)).squeeze(-1)
        constant = 0.5 * LOG_TWO_PI * natural[0].shape[-1]
        return 0.5 * (whitened * whitened).sum(-1) - _log_diagonal(factor) + constant

    def mean_params(self, natural: Natural) -> MeanParams:
        factor = _cholesky(-2.0 * natural[1])
        mean = _solve(factor, natural[0])
        return mean, torch.cholesky_inverse(factor) + _outer(mean, mean)

    def natural(self, mean_params: MeanParams) -> Natural:
        mean, second = mean_params
        factor = _cholesky(second - _outer(mean, mean))
        return _solve(factor, mean), -0.5 * torch.cholesky_inverse(factor)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return value, _outer(value, value)

    def in_domain(self, natural: Natural) -> Tensor:
        first, second = natural
        positive: Tensor = torch.linalg.cholesky_ex(-second)[1] == 0
        finite = (first.abs() < math.inf).all(-1) & (second.abs() < math.inf).all(-1).all(-1)
        return positive & finite

    def distribution(self, natural: Natural) -> Any:
        # Pyro factorises the precision itself and keeps it, so that the way back is exact.
        precision = -2.0 * natural[1]
        mean = _solve(_cholesky(precision), natural[0])
        return dist.MultivariateNormal(mean, precision_matrix=precision)

    def natural_of(self, distribution: Any) -> Natural:
        normal = unwrap(distribution)
        if isinstance(normal, torch.distributions.Normal) and normal.batch_shape:
            diagonal = normal.scale.square().reciprocal()
            return normal.loc * diagonal, torch.diag_embed(-0.5 * diagonal)
        if not isinstance(normal, torch.distributions.MultivariateNormal):
            raise self.wrong_distribution(distribution)
        precision = normal.precision_matrix
        return (precision @ normal.loc.unsqueeze(-1)).squeeze(-1), -0.5 * precision

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # The covector is a change of (m, m m' + V): dS = -S dV S and d(S m) = dS m + S dm, with
        # dS m = -S dV (S m). The paired matrix is symmetric, so only that part of it counts.
        first, precision = natural[0], -2.0 * natural[1]
        mean = _solve(_cholesky(precision), first)
        cross = _outer(mean, covector[0])
        half = 0.5 * covector[1] - cross
        d_precision = -precision @ (half + half.mT) @ precision
        change = d_precision @ mean.unsqueeze(-1) + precision @ covector[0].unsqueeze(-1)
        return change.squeeze(-1), -0.5 * d_precision

    def entropy(self, natural: Natural) -> Tensor:
        constant = 0.5 * (1.0 + LOG_TWO_PI) * natural[0].shape[-1]
        entropy = constant - _log_diagonal(_cholesky(-2.0 * natural[1]))
        return entropy.expand(self.batch_shape(natural))

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        # With M = L_q^-1 L_p: tr(S_p V_q) - D - log|S_p V_q| = |M|^2 - sum(1 + 2 log M_ii), whose
        # diagonal part is a sum of positive terms.
        factor_q, factor_p = _cholesky(-2.0 * natural_q[1]), _cholesky(-2.0 * natural_p[1])
        ratio = _triangular_solve(factor_q, factor_p)
        diagonal = ratio.diagonal(dim1=-2, dim2=-1).square()
        gap = _solve(factor_q, natural_q[0]) - _solve(factor_p, natural_p[0])
        whitened = (factor_p.mT @ gap.unsqueeze(-1)).squeeze(-1)
        off_diagonal = ratio.tril(-1).square().sum((-2, -1))
        return 0.5 * (off_diagonal + bregman_log(diagonal).sum(-1) + whitened.square().sum(-1))

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        # Centred: the uncentred terms lose (m/sd)^2 eps.
        factor = _cholesky(-2.0 * natural[1])
        centred = value - _solve(factor, natural[0])
        whitened = (factor.mT @ centred.unsqueeze(-1)).squeeze(-1)
        constant = 0.5 * LOG_TWO_PI * value.shape[-1]
        return _log_diagonal(factor) - constant - 0.5 * whitened.square().sum(-1)

    def rsample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        # S = L L': z = L'^-1 (L^-1 S m + noise) has mean m and covariance S^-1.
        factor = _cholesky(-2.0 * natural[1])
        whitened = _triangular_solve(factor, natural[0].unsqueeze(-1)).squeeze(-1)
        noise = torch.randn(
            (*sample_shape, *whitened.shape), dtype=whitened.dtype, device=whitened.device
        )
        column = (whitened + noise).unsqueeze(-1)
        return _triangular_solve(factor.mT, column, upper=True).squeeze(-1)


register_family(MultivariateNormal, torch.distributions.MultivariateNormal)
