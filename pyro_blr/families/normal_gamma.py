# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The joint distribution of a normal vector and the precision that scales it."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr.families import matrices
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.gamma import Gamma
from pyro_blr.families.joint_distributions import NormalGammaDistribution, vector_then_positive
from pyro_blr.families.normal import LOG_TWO_PI
from pyro_blr.families.registry import register_family, unwrap

_GAMMA = Gamma()


def _times(number: Tensor, block: Tensor) -> Tensor:
    """Return number times a vector  # shapes: (*batch,), (*batch, D)"""
    return number.unsqueeze(-1) * block


class NormalGamma(ExponentialFamily):
    """Joint law of z and tau: tau is Gamma(a, b) and z, given tau, normal (m, (tau P)^-1).

    - support: v = (z_1, ..., z_D, tau) with real z and positive tau
    - base measure: h(v) = 1
    - sufficient statistic: T(v) = (log tau, tau, tau z, tau z z')
    - natural: (a - 1 + D/2, -b - m'P m/2, P m, -P/2)
    - mean parameters: (psi(a) - log b, a/b, m a/b, P^-1 + m m' a/b)
    - log-partition: log Gamma(a) - a log b - log|P|/2 + D log(2 pi)/2; entropy: that of
      Gamma(a, b) + D (1 + log(2 pi) - psi(a) + log b)/2 - log|P|/2

    It is the posterior of a Gaussian's mean and precision together (with P a matrix, of a linear
    regression's weights and its noise), and conjugate where the product of the two is not.
    Read it through :meth:`location`, :meth:`conditional_covariance` and :meth:`scale_marginal`.
    """

    name = "NormalGamma"
    event_dim = 1
    natural_event_dims = (0, 0, 1, 2)
    support = vector_then_positive
    distribution_type = NormalGammaDistribution
    has_rsample = True
    scale_family = _GAMMA

    # ----- What the natural parameters stand for --------------------------------------------

    def location(self, natural: Natural) -> Tensor:
        """Return m, the mean of z  # shape: (*batch, D)"""
        return matrices.solve(matrices.cholesky(-2.0 * natural[3]), natural[2])

    def conditional_covariance(self, natural: Natural) -> Tensor:
        """Return P^-1, the covariance of z at tau = 1  # shape: (*batch, D, D)"""
        return torch.cholesky_inverse(matrices.cholesky(-2.0 * natural[3]))

    def scale_marginal(self, natural: Natural) -> Natural:
        """Return the natural parameters of the Gamma that is the law of tau, (a - 1, -b)."""
        location = self.location(natural)
        square = (natural[2] * location).sum(-1)
        return natural[0] - 0.5 * location.shape[-1], natural[1] + 0.5 * square

    def marginal_location(self, natural: Natural) -> Any:
        """Return the law of z alone, a Student t with 2 a degrees of freedom, as Pyro has it."""
        first, second = self.scale_marginal(natural)
        shape, rate = first + 1.0, -second
        covariance = matrices.scaled(rate / shape, self.conditional_covariance(natural))
        scale_tril = matrices.cholesky(covariance)
        return dist.MultivariateStudentT(2.0 * shape, self.location(natural), scale_tril)

    def packed(self, location: Tensor, precision: Tensor, shape: Tensor, rate: Tensor) -> Natural:
        """Return the natural parameters for m, P, a and b."""
        direction = matrices.apply(precision, location)
        square = (direction * location).sum(-1)
        return (
            shape - 1.0 + 0.5 * location.shape[-1],
            -rate - 0.5 * square,
            direction,
            -0.5 * precision,
        )

    # ----- Contract -------------------------------------------------------------------------

    def log_partition(self, natural: Natural) -> Tensor:
        half_log_det = matrices.log_diagonal(matrices.cholesky(-2.0 * natural[3]))
        constant = 0.5 * LOG_TWO_PI * natural[2].shape[-1]
        return _GAMMA.log_partition(self.scale_marginal(natural)) - half_log_det + constant

    def mean_params(self, natural: Natural) -> MeanParams:
        expected_log, mean = _GAMMA.mean_params(self.scale_marginal(natural))
        location = self.location(natural)
        weighted = _times(mean, location)
        second = self.conditional_covariance(natural) + matrices.outer(weighted, location)
        return expected_log, mean, weighted, second

    def natural(self, mean_params: MeanParams) -> Natural:
        expected_log, mean, weighted, second = mean_params
        location = weighted / mean.unsqueeze(-1)
        factor = matrices.cholesky(second - matrices.outer(weighted, location))
        first, rate = _GAMMA.natural((expected_log, mean))
        return self.packed(location, torch.cholesky_inverse(factor), first + 1.0, -rate)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        vector, scale = value[..., :-1], value[..., -1]
        weighted = _times(scale, vector)
        return scale.log(), scale, weighted, matrices.outer(weighted, vector)

    def in_domain(self, natural: Natural) -> Tensor:
        positive = matrices.positive_definite(-natural[3])
        finite = (natural[2].abs() < math.inf).all(-1)
        return positive & finite & _GAMMA.in_domain(self.scale_marginal(natural))

    def distribution(self, natural: Natural) -> Any:
        first, second = self.scale_marginal(natural)
        with self.naming_domain():
            return NormalGammaDistribution(
                self.location(natural), -2.0 * natural[3], first + 1.0, -second
            )

    def natural_of(self, distribution: Any) -> Natural:
        joint = unwrap(distribution)
        if not isinstance(joint, NormalGammaDistribution):
            raise self.wrong_distribution(distribution)
        return self.packed(joint.loc, joint.precision_matrix, joint.concentration, joint.rate)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        # The covector is a change of the mean parameters; it is followed to (a, b), m and
        # P^-1, where the blocks are independent, and on to the natural parameters.
        first, second, third = covector[:3]
        gamma, precision = self.scale_marginal(natural), -2.0 * natural[3]
        mean, location = _GAMMA.mean_params(gamma)[1], self.location(natural)
        d_weighted = third - _times(second, location)
        d_location = d_weighted / mean.unsqueeze(-1)
        d_covariance = (
            matrices.symmetric_part(covector[3])
            - matrices.symmetric_outer(d_weighted, location)
            - matrices.scaled(second, matrices.outer(location, location))
        )
        d_precision = -precision @ d_covariance @ precision
        d_shape, d_rate = _GAMMA.inverse_fisher(gamma, (first, second))
        pulled = matrices.apply(d_precision, location)
        d_square = 2.0 * (natural[2] * d_location).sum(-1) + (location * pulled).sum(-1)
        d_direction = pulled + matrices.apply(precision, d_location)
        return d_shape, d_rate - 0.5 * d_square, d_direction, -0.5 * d_precision

    def entropy(self, natural: Natural) -> Tensor:
        gamma, dim = self.scale_marginal(natural), natural[2].shape[-1]
        half_log_det = matrices.log_diagonal(matrices.cholesky(-2.0 * natural[3]))
        expected_log = _GAMMA.mean_params(gamma)[0]
        conditional = 0.5 * dim * (1.0 + LOG_TWO_PI - expected_log) - half_log_det
        return _GAMMA.entropy(gamma) + conditional

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        # KL of the marginals of tau, and the expected one of the normals given tau.
        gamma_q, gamma_p = self.scale_marginal(natural_q), self.scale_marginal(natural_p)
        factor_q = matrices.cholesky(-2.0 * natural_q[3])
        factor_p = matrices.cholesky(-2.0 * natural_p[3])
        gap = matrices.solve(factor_q, natural_q[2]) - matrices.solve(factor_p, natural_p[2])
        distance = matrices.apply(factor_p.mT, gap).square().sum(-1)
        spread = matrices.relative_divergence(factor_q, factor_p)
        conditional = 0.5 * (spread + _GAMMA.mean_params(gamma_q)[1] * distance)
        return _GAMMA.kl(gamma_q, gamma_p) + conditional

    def log_prob(self, natural: Natural, value: Tensor) -> Tensor:
        # Centred: the uncentred terms lose (m/sd)^2 eps.
        vector, scale = value[..., :-1], value[..., -1]
        factor = matrices.cholesky(-2.0 * natural[3])
        centred = vector - matrices.solve(factor, natural[2])
        square = matrices.apply(factor.mT, centred).square().sum(-1)
        log_scale = 0.5 * vector.shape[-1] * (scale.log() - LOG_TWO_PI)
        conditional = log_scale + matrices.log_diagonal(factor) - 0.5 * scale * square
        return _GAMMA.log_prob(self.scale_marginal(natural), scale) + conditional

    def noise_shape(self, natural: Natural) -> tuple[int, ...]:
        return (*self.batch_shape(natural), natural[2].shape[-1] + 1)

    def at_noise(self, natural: Natural, noise: Tensor) -> Tensor:
        scale = _GAMMA.at_noise(self.scale_marginal(natural), noise[..., -1]).unsqueeze(-1)
        # P = L L': L'^-1 noise has the covariance P^-1.
        factor = matrices.cholesky(-2.0 * natural[3])
        columns = noise[..., :-1].to(scale.dtype).unsqueeze(-1)
        spread = matrices.triangular_solve(factor.mT, columns, upper=True).squeeze(-1)
        return torch.cat([self.location(natural) + spread / scale.sqrt(), scale], -1)


register_family(NormalGamma)
