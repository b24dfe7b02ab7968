# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The joint distribution of a normal vector and its precision matrix."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr.families import matrices
from pyro_blr.families import wishart_functions as fn
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.gamma_functions import bregman_log
from pyro_blr.families.joint_distributions import (
    NormalWishartDistribution,
    split_matrix,
    vector_then_positive_definite,
)
from pyro_blr.families.normal import LOG_TWO_PI
from pyro_blr.families.registry import register_family, unwrap
from pyro_blr.families.wishart import Wishart

_WISHART = Wishart()


def _square(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return vector' matrix vector."""
    return (vector * matrices.apply(matrix, vector)).sum(-1)


class NormalWishart(ExponentialFamily):
    """Joint law of z and L: L is Wishart(nu, V) and z, given L, normal (m, (kappa L)^-1).

    - support: v = (z_1, ..., z_D, L_11, L_12, ..., L_DD) with L positive definite
    - base measure: h(v) = 1
    - sufficient statistic: T(v) = (log|L|, L, L z, z'L z)
    - natural: ((nu - D)/2, -V^-1/2 - kappa m m'/2, kappa m, -kappa/2)
    - mean parameters: (E log|L|, nu V, nu V m, D/kappa + nu m'V m), E log|L| as for a Wishart
    - log-partition: that of Wishart(nu, V) - D log(kappa)/2 + D log(2 pi)/2; entropy: that of
      Wishart(nu, V) + D (1 + log(2 pi) - log(kappa))/2 - E[log|L|]/2

    It is the posterior of a Gaussian's mean and precision matrix together. Read it through
    :meth:`location`, :meth:`kappa` and :meth:`scale_marginal`.
    """

    name = "NormalWishart"
    event_dim = 1
    natural_event_dims = (0, 2, 1, 0)
    support = vector_then_positive_definite
    distribution_type = NormalWishartDistribution
    has_rsample = True
    scale_family = _WISHART

    # ----- What the natural parameters stand for --------------------------------------------

    def kappa(self, natural: Natural) -> Tensor:
        """Return kappa, the number of observations that m is worth  # shape: (*batch,)"""
        return -2.0 * natural[3]

    def location(self, natural: Natural) -> Tensor:
        """Return m, the mean of z  # shape: (*batch, D)"""
        return natural[2] / self.kappa(natural).unsqueeze(-1)

    def scale_marginal(self, natural: Natural) -> Natural:
        """Return the natural parameters of the Wishart of L, ((nu - D - 1)/2, -V^-1/2)."""
        square = matrices.outer(0.5 * natural[2], self.location(natural))
        return natural[0] - 0.5, natural[1] + square

    def marginal_location(self, natural: Natural) -> Any:
        """Return the law of z alone, a Student t with nu - D + 1 degrees, as Pyro has it."""
        first, second = self.scale_marginal(natural)
        df = 2.0 * (first + 1.0)
        precision = -2.0 * second / (self.kappa(natural) * df).unsqueeze(-1).unsqueeze(-1)
        return dist.MultivariateStudentT(df, self.location(natural), matrices.cholesky(precision))

    def packed(self, location: Tensor, kappa: Tensor, wishart: Natural) -> Natural:
        """Return the natural parameters for m, kappa and those of the Wishart of L."""
        direction = kappa.unsqueeze(-1) * location
        square = matrices.outer(0.5 * direction, location)
        return wishart[0] + 0.5, wishart[1] - square, direction, -0.5 * kappa

    # ----- Contract -------------------------------------------------------------------------

    def log_partition(self, natural: Natural) -> Tensor:
        constant = 0.5 * natural[2].shape[-1] * (LOG_TWO_PI - self.kappa(natural).log())
        return _WISHART.log_partition(self.scale_marginal(natural)) + constant

    def mean_params(self, natural: Natural) -> MeanParams:
        expected_log, mean = _WISHART.mean_params(self.scale_marginal(natural))
        location = self.location(natural)
        weighted = matrices.apply(mean, location)
        spread = location.shape[-1] / self.kappa(natural)
        return expected_log, mean, weighted, spread + (location * weighted).sum(-1)

    def natural(self, mean_params: MeanParams) -> Natural:
        expected_log, mean, weighted, square = mean_params
        location = matrices.solve(matrices.cholesky(mean), weighted)
        kappa = location.shape[-1] / (square - (location * weighted).sum(-1))
        return self.packed(location, kappa, _WISHART.natural((expected_log, mean)))

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        vector, matrix = split_matrix(value)
        log_det = 2.0 * matrices.log_diagonal(matrices.cholesky(matrix))
        weighted = matrices.apply(matrix, vector)
        return log_det, matrix, weighted, (vector * weighted).sum(-1)

    def in_domain(self, natural: Natural) -> Tensor:
        kappa = self.kappa(natural)
        positive = (kappa > 0.0) & (kappa < math.inf)
        return positive & _WISHART.in_domain(self.scale_marginal(natural))

    def distribution(self, natural: Natural) -> Any:
        first, second = self.scale_marginal(natural)
        location = self.location(natural)
        df = 2.0 * first + (location.shape[-1] + 1.0)
        with self.naming_domain():
            return NormalWishartDistribution(location, self.kappa(natural), df, -2.0 * second)

    def natural_of(self, distribution: Any) -> Natural:
        joint = unwrap(distribution)
        if not isinstance(joint, NormalWishartDistribution):
            raise self.wrong_distribution(distribution)
        first = 0.5 * (joint.df - joint.loc.shape[-1] - 1.0)
        return self.packed(joint.loc, joint.kappa, (first, -0.5 * joint.precision_matrix))

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # The covector is a change of the mean parameters; it is followed to (nu, V), m and
        # kappa, where the blocks are independent, and on to the natural parameters.
        second = matrices.symmetric_part(covector[1])
        third, fourth = covector[2:]
        wishart, kappa = self.scale_marginal(natural), self.kappa(natural)
        mean, location = _WISHART.mean_params(wishart)[1], self.location(natural)
        d_location = matrices.solve(
            matrices.cholesky(mean), third - matrices.apply(second, location)
        )
        d_spread = fourth - 2.0 * (location * third).sum(-1) + _square(second, location)
        d_kappa = -kappa * kappa * d_spread / location.shape[-1]
        d_first, d_second = _WISHART.inverse_fisher(wishart, (covector[0], second))
        d_square = matrices.scaled(d_kappa, matrices.outer(location, location))
        d_square = d_square + matrices.scaled(kappa, matrices.symmetric_outer(d_location, location))
        d_direction = d_kappa.unsqueeze(-1) * location + kappa.unsqueeze(-1) * d_location
        return d_first, d_second - 0.5 * d_square, d_direction, -0.5 * d_kappa

    def entropy(self, natural: Natural) -> Tensor:
        wishart = self.scale_marginal(natural)
        dim = natural[2].shape[-1]
        constant = 0.5 * dim * (1.0 + LOG_TWO_PI - self.kappa(natural).log())
        conditional = constant - 0.5 * _WISHART.mean_params(wishart)[0]
        return _WISHART.entropy(wishart) + conditional

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        # KL of the marginals of L, and the expected one of the normals given L.
        wishart_q, wishart_p = self.scale_marginal(natural_q), self.scale_marginal(natural_p)
        gap = self.location(natural_q) - self.location(natural_p)
        kappa_p = self.kappa(natural_p)
        distance = kappa_p * _square(_WISHART.mean_params(wishart_q)[1], gap)
        spread = gap.shape[-1] * bregman_log(kappa_p / self.kappa(natural_q))
        return _WISHART.kl(wishart_q, wishart_p) + 0.5 * (spread + distance)

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        # Centred: the uncentred terms lose (m/sd)^2 eps.
        vector, matrix = split_matrix(value)
        kappa = self.kappa(natural)
        factor = matrices.cholesky(matrix)
        whitened = matrices.apply(factor.mT, vector - self.location(natural))
        constant = 0.5 * vector.shape[-1] * (kappa.log() - LOG_TWO_PI)
        conditional = matrices.log_diagonal(factor) - 0.5 * kappa * whitened.square().sum(-1)
        return _WISHART.log_prob(self.scale_marginal(natural), matrix) + constant + conditional

    def noise_shape(self, natural: Natural) -> tuple[int, ...]:
        dim = natural[2].shape[-1]
        return (*self.batch_shape(natural), dim + fn.bartlett_noise(dim))

    def at_noise(self, natural: Natural, noise: Tensor) -> Tensor:
        first, second = self.scale_marginal(natural)
        location, dim = self.location(natural), natural[2].shape[-1]
        # L = root root' with root = C'^-1 B, so that root'^-1 = C B'^-1.
        factor = matrices.cholesky(-second)
        bartlett = fn.bartlett_at(first + 1.0, noise[..., dim:], dim)
        root = fn.wishart_root(factor, bartlett)
        columns = noise[..., :dim].to(root.dtype).unsqueeze(-1)
        spread = factor @ matrices.triangular_solve(bartlett.mT, columns, upper=True)
        vector = location + spread.squeeze(-1) / self.kappa(natural).sqrt().unsqueeze(-1)
        return torch.cat([vector, (root @ root.mT).flatten(-2)], -1)


register_family(NormalWishart)
