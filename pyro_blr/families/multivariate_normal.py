# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The normal distribution of a real vector, with a full covariance."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import matrices
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.normal import LOG_TWO_PI
from pyro_blr.families.registry import register_family, unwrap


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
        factor = matrices.cholesky(-2.0 * natural[1])
        whitened = matrices.triangular_solve(factor, natural[0].unsqueeze(-1)).squeeze(-1)
        constant = 0.5 * LOG_TWO_PI * natural[0].shape[-1]
        return 0.5 * (whitened * whitened).sum(-1) - matrices.log_diagonal(factor) + constant

    def mean_params(self, natural: Natural) -> MeanParams:
        factor = matrices.cholesky(-2.0 * natural[1])
        mean = matrices.solve(factor, natural[0])
        return mean, torch.cholesky_inverse(factor) + matrices.outer(mean, mean)

    def natural(self, mean_params: MeanParams) -> Natural:
        mean, second = mean_params
        factor = matrices.cholesky(second - matrices.outer(mean, mean))
        return matrices.solve(factor, mean), -0.5 * torch.cholesky_inverse(factor)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return value, matrices.outer(value, value)

    def in_domain(self, natural: Natural) -> Tensor:
        first, second = natural
        return (first.abs() < math.inf).all(-1) & matrices.positive_definite(-2.0 * second)

    def distribution(self, natural: Natural) -> Any:
        # Pyro factorises the precision itself and keeps it, so that the way back is exact.
        precision = -2.0 * natural[1]
        mean = matrices.solve(matrices.cholesky(precision), natural[0])
        with self.naming_domain():
            return dist.MultivariateNormal(mean, precision_matrix=precision)

    def natural_of(self, distribution: Any) -> Natural:
        normal = unwrap(distribution)
        if isinstance(normal, torch.distributions.Normal) and normal.batch_shape:
            diagonal = normal.scale.square().reciprocal()
            return normal.loc * diagonal, torch.diag_embed(-0.5 * diagonal)
        if not isinstance(normal, torch.distributions.MultivariateNormal):
            raise self.wrong_distribution(distribution)
        precision = normal.precision_matrix
        return matrices.apply(precision, normal.loc), -0.5 * precision

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # The covector is a change of (m, m m' + V): dS = -S dV S and d(S m) = dS m + S dm, with
        # dS m = -S dV (S m). The paired matrix is symmetric, so only that part of it counts.
        first, precision = natural[0], -2.0 * natural[1]
        mean = matrices.solve(matrices.cholesky(precision), first)
        cross = matrices.outer(mean, covector[0])
        half = 0.5 * covector[1] - cross
        d_precision = -precision @ (half + half.mT) @ precision
        change = matrices.apply(d_precision, mean) + matrices.apply(precision, covector[0])
        return change, -0.5 * d_precision

    @torch.no_grad()
    def fisher(self, natural: Natural, vector: Natural) -> tuple[Tensor, ...]:
        # V = S^-1: dV = -V dS V and dm = V (d(S m) - dS m).
        factor = matrices.cholesky(-2.0 * natural[1])
        mean, covariance = matrices.solve(factor, natural[0]), torch.cholesky_inverse(factor)
        d_precision = -(vector[1] + vector[1].mT)
        d_mean = matrices.apply(covariance, vector[0] - matrices.apply(d_precision, mean))
        d_covariance = -covariance @ d_precision @ covariance
        return d_mean, d_covariance + matrices.symmetric_outer(d_mean, mean)

    def entropy(self, natural: Natural) -> Tensor:
        constant = 0.5 * (1.0 + LOG_TWO_PI) * natural[0].shape[-1]
        entropy = constant - matrices.log_diagonal(matrices.cholesky(-2.0 * natural[1]))
        return entropy.expand(self.batch_shape(natural))

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        factor_q = matrices.cholesky(-2.0 * natural_q[1])
        factor_p = matrices.cholesky(-2.0 * natural_p[1])
        gap = matrices.solve(factor_q, natural_q[0]) - matrices.solve(factor_p, natural_p[0])
        whitened = matrices.apply(factor_p.mT, gap)
        spread = matrices.relative_divergence(factor_q, factor_p)
        return 0.5 * (spread + whitened.square().sum(-1))

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        # Centred: the uncentred terms lose (m/sd)^2 eps.
        factor = matrices.cholesky(-2.0 * natural[1])
        centred = value - matrices.solve(factor, natural[0])
        whitened = matrices.apply(factor.mT, centred)
        constant = 0.5 * LOG_TWO_PI * value.shape[-1]
        return matrices.log_diagonal(factor) - constant - 0.5 * whitened.square().sum(-1)

    def rsample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        # S = L L': z = L'^-1 (L^-1 S m + noise) has mean m and covariance S^-1.
        factor = matrices.cholesky(-2.0 * natural[1])
        whitened = matrices.triangular_solve(factor, natural[0].unsqueeze(-1)).squeeze(-1)
        noise = torch.randn(
            (*sample_shape, *whitened.shape), dtype=whitened.dtype, device=whitened.device
        )
        column = (whitened + noise).unsqueeze(-1)
        return matrices.triangular_solve(factor.mT, column, upper=True).squeeze(-1)


register_family(MultivariateNormal, torch.distributions.MultivariateNormal)
