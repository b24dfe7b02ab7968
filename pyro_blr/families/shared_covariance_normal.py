# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The normal distribution of the rows of a matrix, with one covariance for all of them."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.errors import ArgumentError
from pyro_blr.families import matrices
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.normal import LOG_TWO_PI
from pyro_blr.families.registry import register_family, unwrap


class SharedCovarianceNormal(ExponentialFamily):
    """Normal of an N x D matrix of independent rows with means m_n and one covariance P^-1.

    - support: real N x D matrix z
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (z, z'z), with z'z = sum_n z_n z_n'
    - natural: (M P, -P/2), where M is the N x D matrix of the means
    - mean parameters: (M, M'M + N P^-1)
    - log-partition: sum_n m_n'P m_n/2 - N log|P|/2 + N D log(2 pi)/2; entropy: N D/2 + N D
      log(2 pi)/2 - N log|P|/2

    It is the joint law of a plate of Gaussians whose posterior covariances agree, such as the
    scores of probabilistic principal components: the covariance is stored once, in N D + D^2
    numbers, and nothing here is expanded along the rows. N is the first parameter's.

    It is found by name only: the family of ``MultivariateNormal(...).to_event(1)`` is
    :class:`~pyro_blr.families.MultivariateNormal`, with a covariance for each row.
    """

    name = "SharedCovarianceNormal"
    event_dim = 2
    natural_event_dims = (2, 2)
    support = constraints.independent(constraints.real, 2)
    distribution_type = dist.Independent
    has_rsample = True

    def log_partition(self, natural: Natural) -> Tensor:
        rows, dim = natural[0].shape[-2:]
        factor = matrices.cholesky(-2.0 * natural[1])
        whitened = matrices.triangular_solve(factor, natural[0].mT)
        constant = 0.5 * LOG_TWO_PI * (rows * dim)
        half_log_det = rows * matrices.log_diagonal(factor)
        return 0.5 * whitened.square().sum((-2, -1)) - half_log_det + constant

    def mean_params(self, natural: Natural) -> MeanParams:
        factor = matrices.cholesky(-2.0 * natural[1])
        mean = self._means(factor, natural[0])
        covariance = torch.cholesky_inverse(factor)
        return mean, mean.mT @ mean + natural[0].shape[-2] * covariance

    def natural(self, mean_params: MeanParams) -> Natural:
        mean, second = mean_params
        scatter = (second - mean.mT @ mean) / mean.shape[-2]
        factor = matrices.cholesky(scatter)
        return self._means(factor, mean), -0.5 * torch.cholesky_inverse(factor)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return value, value.mT @ value

    def in_domain(self, natural: Natural) -> Tensor:
        finite = (natural[0].abs() < math.inf).all(-1).all(-1)
        return finite & matrices.positive_definite(-natural[1])

    def distribution(self, natural: Natural) -> Any:
        precision = -2.0 * natural[1]
        mean = self._means(matrices.cholesky(precision), natural[0])
        with self.naming_domain():
            rows = dist.MultivariateNormal(mean, precision_matrix=precision.unsqueeze(-3))
        return rows.to_event(1)

    def natural_of(self, distribution: Any) -> Natural:
        rows = unwrap(distribution)
        if not isinstance(rows, torch.distributions.MultivariateNormal):
            raise self.wrong_distribution(distribution)
        if len(distribution.event_shape) < 2:
            raise ArgumentError(
                f"{self.name} is of a matrix, and the event of this {type(rows).__name__} is one "
                "vector. Mend: declare the rows as an event dimension, by .to_event(1)."
            )
        precision = rows.precision_matrix
        # Expanded along the rows (stride 0): one matrix for all of them, without reading any.
        if precision.shape[-3] > 1 and precision.stride(-3) != 0:
            raise ArgumentError(
                f"{self.name} has one covariance, and this {type(rows).__name__} one for each of "
                f"its {precision.shape[-3]} rows. Mend: give it one of the shape (..., 1, D, D)."
            )
        shared = precision.select(-3, 0)
        return rows.loc @ shared, -0.5 * shared

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # The covector is a change of (M, M'M + N V): dP = -P dV P and d(M P) = dM P + M dP.
        precision, d_mean = -2.0 * natural[1], covector[0]
        mean = self._means(matrices.cholesky(precision), natural[0])
        half = 0.5 * covector[1] - mean.mT @ d_mean
        d_precision = -precision @ (half + half.mT) @ precision / natural[0].shape[-2]
        return d_mean @ precision + mean @ d_precision, -0.5 * d_precision

    def entropy(self, natural: Natural) -> Tensor:
        rows, dim = natural[0].shape[-2:]
        half_log_det = matrices.log_diagonal(matrices.cholesky(-2.0 * natural[1]))
        entropy = rows * (0.5 * (1.0 + LOG_TWO_PI) * dim - half_log_det)
        return entropy.expand(self.batch_shape(natural))

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        factor_q = matrices.cholesky(-2.0 * natural_q[1])
        factor_p = matrices.cholesky(-2.0 * natural_p[1])
        gap = self._means(factor_q, natural_q[0]) - self._means(factor_p, natural_p[0])
        spread = gap.shape[-2] * matrices.relative_divergence(factor_q, factor_p)
        return 0.5 * (spread + (gap @ factor_p).square().sum((-2, -1)))

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        # Centred: the uncentred terms lose (m/sd)^2 eps.
        rows, dim = natural[0].shape[-2:]
        factor = matrices.cholesky(-2.0 * natural[1])
        whitened = (value - self._means(factor, natural[0])) @ factor
        constant = rows * (matrices.log_diagonal(factor) - 0.5 * LOG_TWO_PI * dim)
        return constant - 0.5 * whitened.square().sum((-2, -1))

    def rsample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        # P = L L': z_n = L'^-1 (L^-1 P m_n + noise) has mean m_n and covariance P^-1.
        factor = matrices.cholesky(-2.0 * natural[1])
        whitened = matrices.triangular_solve(factor, natural[0].mT)
        noise = torch.randn(
            (*sample_shape, *whitened.shape), dtype=whitened.dtype, device=whitened.device
        )
        return matrices.triangular_solve(factor.mT, whitened + noise, upper=True).mT

    def sample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        # Not by the Pyro distribution, which has a matrix for each row.
        with torch.no_grad():
            return self.rsample(natural, sample_shape)

    def symmetrize(self, blocks: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the blocks, with (P + P')/2 for the second; the first is no square matrix."""
        return blocks[0], matrices.symmetric_part(blocks[1])

    def wrong_distribution(self, distribution: Any) -> ArgumentError:
        """Return the error to raise for a distribution of another family."""
        return ArgumentError(
            f"A {type(distribution).__name__} is not in the family {self.name}. Mend: pass "
            "MultivariateNormal(loc, covariance).to_event(1), with a loc of the shape "
            "(*batch, N, D) and a covariance of (*batch, 1, D, D)."
        )

    def _means(self, factor: Tensor, rows: Tensor) -> Tensor:
        """Return rows (L L')^-1  # shape: (*batch, N, D)"""
        return torch.cholesky_solve(rows.mT, factor).mT


register_family(SharedCovarianceNormal, by_name=True)
