# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Wishart distribution of a positive definite matrix, such as a precision."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import matrices
from pyro_blr.families import wishart_functions as fn
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.registry import register_family, unwrap


def _trace_of_product(left: Tensor, right: Tensor) -> Tensor:
    """Return tr(left right) of symmetric matrices."""
    return (left * right).sum((-2, -1))


class WishartDistribution(dist.Wishart):
    """Pyro's Wishart with draws by Bartlett's decomposition alone.

    Its own sampler takes every regular draw for a singular one, warns and draws again.
    """

    def rsample(self, sample_shape: tuple[int, ...] = (), max_try_correction: Any = None) -> Tensor:
        """Return draws, differentiable in the parameters; nothing is tried again."""
        x = 0.5 * (self.df - self.event_shape[-1] + 1.0)
        factor = matrices.cholesky(0.5 * self.precision_matrix)
        root, _ = fn.draws(x, factor, sample_shape)
        return root @ root.mT


class Wishart(ExponentialFamily):
    """Wishart of a D x D matrix with nu degrees of freedom and scale V: the Gamma of matrices.

    - support: positive definite D x D matrix L
    - base measure: h(L) = 1
    - sufficient statistic: T(L) = (log|L|, L)
    - natural: ((nu - D - 1)/2, -V^-1/2)
    - mean parameters: (psi_D(nu/2) + D log 2 + log|V|, nu V)
    - log-partition: log Gamma_D(nu/2) + nu D log(2)/2 + nu log|V|/2; entropy: log Gamma_D(nu/2) +
      D (D + 1) log(2)/2 + (D + 1) log|V|/2 - (nu - D - 1) psi_D(nu/2)/2 + nu D/2

    The domain is nu > D - 1 and V positive definite. With the shape a = nu/2 and the rate
    W = V^-1/2 everything is as for a Gamma, which D = 1 is; ``natural[0] + 1`` is the x = a -
    (D - 1)/2 of ``wishart_functions``.
    """

    name = "Wishart"
    event_dim = 2
    natural_event_dims = (0, 2)
    support = constraints.positive_definite
    distribution_type = WishartDistribution
    has_rsample = True

    def _shape(self, natural: Natural) -> Tensor:
        """Return a = nu/2."""
        return natural[0] + 0.5 * (natural[1].shape[-1] + 1.0)

    def log_partition(self, natural: Natural) -> Tensor:
        dim = natural[1].shape[-1]
        log_rate = 2.0 * matrices.log_diagonal(matrices.cholesky(-natural[1]))
        return fn.log_gamma(natural[0] + 1.0, dim) - self._shape(natural) * log_rate

    def mean_params(self, natural: Natural) -> MeanParams:
        factor = matrices.cholesky(-natural[1])
        log_rate = 2.0 * matrices.log_diagonal(factor)
        mean = matrices.scaled(self._shape(natural), torch.cholesky_inverse(factor))
        return fn.digamma(natural[0] + 1.0, natural[1].shape[-1]) - log_rate, mean

    def natural(self, mean_params: MeanParams) -> Natural:
        expected_log, mean = mean_params
        dim = mean.shape[-1]
        factor = matrices.cholesky(mean)
        defect = 2.0 * matrices.log_diagonal(factor) - expected_log
        x = fn.inverse_log_minus_digamma(defect, dim)
        return x - 1.0, matrices.scaled(-x - 0.5 * (dim - 1.0), torch.cholesky_inverse(factor))

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return 2.0 * matrices.log_diagonal(matrices.cholesky(value)), value

    def in_domain(self, natural: Natural) -> Tensor:
        first, second = natural
        return (first > -1.0) & (first < math.inf) & matrices.positive_definite(-second)

    def distribution(self, natural: Natural) -> Any:
        with self.naming_domain():
            return WishartDistribution(
                2.0 * self._shape(natural), precision_matrix=-2.0 * natural[1]
            )

    def natural_of(self, distribution: Any) -> Natural:
        wishart = unwrap(distribution)
        if not isinstance(wishart, torch.distributions.Wishart):
            raise self.wrong_distribution(distribution)
        precision = wishart.precision_matrix
        return 0.5 * (wishart.df - precision.shape[-1] - 1.0), -0.5 * precision

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # The covector is a change of (psi_D(a) - log|W|, a W^-1): W times the second times W is
        # da W - a dW, whose trace with W^-1 leaves (a psi_D'(a) - D) da.
        first, second = covector[0], matrices.symmetric_part(covector[1])
        shape, rate = self._shape(natural), -natural[1]
        excess = fn.trigamma_excess(natural[0] + 1.0, rate.shape[-1])
        d_shape = (shape * first - _trace_of_product(rate, second)) / excess
        change = rate @ second @ rate - matrices.scaled(d_shape, rate)
        return d_shape, matrices.scaled(shape.reciprocal(), change)

    def entropy(self, natural: Natural) -> Tensor:
        dim = natural[1].shape[-1]
        log_rate = 2.0 * matrices.log_diagonal(matrices.cholesky(-natural[1]))
        return fn.unit_entropy(natural[0] + 1.0, dim) - 0.5 * (dim + 1.0) * log_rate

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        # Stirling's main part of A and the rates together are a_p (tr(R) - D - log|R|), where
        # R = a_q/a_p W_q^-1 W_p.
        shape_q, shape_p = self._shape(natural_q), self._shape(natural_p)
        factor_q, factor_p = matrices.cholesky(-natural_q[1]), matrices.cholesky(-natural_p[1])
        main = shape_p * matrices.relative_divergence(factor_q, factor_p, shape_q / shape_p)
        dim = natural_q[1].shape[-1]
        return main + fn.bregman_stirling(natural_p[0] + 1.0, natural_q[0] + 1.0, dim)

    def rsample(self, natural: Natural, sample_shape: tuple[int, ...] = ()) -> Tensor:
        root, _ = fn.draws(natural[0] + 1.0, matrices.cholesky(-natural[1]), sample_shape)
        return root @ root.mT

    def noise_shape(self, natural: Natural) -> tuple[int, ...]:
        return (*self.batch_shape(natural), fn.bartlett_noise(natural[1].shape[-1]))

    def at_noise(self, natural: Natural, noise: Tensor) -> Tensor:
        bartlett = fn.bartlett_at(natural[0] + 1.0, noise, natural[1].shape[-1])
        root = fn.wishart_root(matrices.cholesky(-natural[1]), bartlett)
        return root @ root.mT


register_family(Wishart, torch.distributions.Wishart)
