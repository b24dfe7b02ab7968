# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Dirichlet distribution of a vector of proportions."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor

from pyro_blr.families import gamma_functions as fn
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.gamma_quantile import log_gamma_at
from pyro_blr.families.registry import register_family, unwrap

# Newton's method on a concave function from the right of its root; the worst starts (two
# components, one of them near zero) have lost their distance after five steps.
_TOTAL_STEPS = 6
_POLISHING_STEPS = 2


def with_total(concentration: Tensor) -> Tensor:
    """Return (a_1, ..., a_K, sum(a)): special functions are then evaluated in one call.

    :param concentration:  # shape: (*batch, K)
    :return:  # shape: (*batch, K + 1)
    """
    return torch.cat([concentration, concentration.sum(-1, keepdim=True)], -1)


def without_total(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return (f(a_1), ..., f(a_K)) and f(sum(a)) of a function evaluated at :func:`with_total`.

    :param values:  # shape: (*batch, K + 1)
    :return: two tensors  # shapes: (*batch, K), (*batch, 1)
    """
    parts, total = values.split((values.shape[-1] - 1, 1), -1)
    return parts, total


def expected_logs(concentration: Tensor) -> Tensor:
    """Return E[log z] = psi(a) - psi(sum(a)).

    :param concentration:  # shape: (*batch, K)
    """
    parts, total = without_total(fn.digamma(with_total(concentration)))
    return parts - total


def log_normalizer(concentration: Tensor) -> Tensor:
    """Return sum(log Gamma(a)) - log Gamma(sum(a)).

    :param concentration:  # shape: (*batch, K)
    """
    parts, total = without_total(fn.log_gamma(with_total(concentration)))
    return parts.sum(-1) - total.squeeze(-1)


def entropy_of(concentration: Tensor) -> Tensor:
    """Return the entropy through those of unit gammas, E(a): it does not cancel.

    ``A - <a - 1, mean> = sum E(a_i) - E(a_0) - (K - 1) psi(a_0)`` with ``a_0 = sum(a)``.

    :param concentration:  # shape: (*batch, K)
    """
    every = with_total(concentration)
    parts, total = without_total(fn.unit_gamma_entropy(every))
    free = concentration.shape[-1] - 1
    last = total + free * fn.digamma(without_total(every)[1])
    return parts.sum(-1) - last.squeeze(-1)


def kl_of(concentration_q: Tensor, concentration_p: Tensor) -> Tensor:
    """Return KL(q || p); Stirling's main part is sum p_i (r_i - 1 - log r_i).

    :param concentration_q:  # shape: (*batch, K)
    :param concentration_p:  # shape: (*batch, K)
    """
    q, p = with_total(concentration_q), with_total(concentration_p)
    parts, total = without_total(q / p)
    main = concentration_p * fn.bregman_log(parts / total)
    rest, rest_total = without_total(fn.bregman_stirling(p, q))
    return (main + rest).sum(-1) - rest_total.squeeze(-1)


def inverse_fisher_of(concentration: Tensor, covector: Tensor) -> Tensor:
    """Return F^-1 covector for F = diag(psi'(a)) - psi'(a_0) 11', by Sherman and Morrison.

    The denominator ``1/psi'(a_0) - sum 1/psi'(a_i)`` cancels for large ``a_0``. There it is taken
    as ``sum h(a_i) - h(a_0)``, where ``h(a) = a - 1/psi'(a)`` lies in (0, 1/2); for small ``a_0``
    it is that form which cancels. A single class is certain: F is 0, and so is its pseudo-inverse.

    :param concentration:  # shape: (*batch, K)
    :param covector:  # shape: (*batch, K)
    """
    if concentration.shape[-1] == 1:
        return torch.zeros_like(concentration * covector)
    every = with_total(concentration)
    inverse = fn.trigamma(every).reciprocal()
    diagonal, inverse_total = without_total(inverse)
    offset, offset_total = without_total(fn.trigamma_excess(every) * inverse)
    denominator = torch.where(
        without_total(every)[1] < 1.0,
        inverse_total - diagonal.sum(-1, keepdim=True),
        offset.sum(-1, keepdim=True) - offset_total,
    )
    scaled = diagonal * covector
    return scaled + diagonal * (scaled.sum(-1, keepdim=True) / denominator)


def concentration_of(expected_log: Tensor) -> Tensor:
    """Return the concentration with these E[log z], by Newton's method.

    Given the total s = a_0, every other concentration is ``a_i = psi^-1(m_i + psi(s))``, so that
    ``G(s) = sum a_i - s`` is to vanish. G is concave; its tangent at infinity has its zero at
    ``(K - 1 + g)/2g`` with ``g = 1 - sum exp(m_i)``, to the right of the root, from where Newton's
    method falls to it monotonically. Two joint steps on all concentrations then take out what
    rounding in psi has left.

    :param expected_log: E[log z]  # shape: (*batch, K)
    :return:  # shape: (*batch, K); NaN where ``sum exp(m_i) >= 1``.
    """
    gap = -torch.expm1(expected_log.logsumexp(-1, keepdim=True))
    gap = torch.where(gap > 0.0, gap, math.nan)
    total = (expected_log.shape[-1] - 1.0 + gap) / (2.0 * gap)
    for _ in range(_TOTAL_STEPS):
        parts = fn.inverse_digamma(expected_log + fn.digamma(total))
        slope = fn.trigamma(parts).reciprocal().sum(-1, keepdim=True) * fn.trigamma(total)
        total = total - (parts.sum(-1, keepdim=True) - total) / (slope - 1.0)
    parts = fn.inverse_digamma(expected_log + fn.digamma(total))
    for _ in range(_POLISHING_STEPS):
        every = with_total(parts)
        defect, defect_total = without_total(fn.log_minus_digamma(every))
        log_share = (parts / without_total(every)[1]).log()
        residual = log_share - defect + defect_total - expected_log
        parts = parts * (-inverse_fisher_of(parts, residual) / parts).exp()
    return parts


def power_of(concentration: Tensor, total: Tensor, power: float) -> Tensor:
    """Return E[z ** power] of one proportion; infinite where ``concentration <= -power``.

    :param concentration: of the proportion.
    :param total: sum of all concentrations, broadcast against it.
    :param power: a real number.
    """
    inside = concentration + power > 0.0
    safe, whole = concentration, total
    if power < 0.0:
        safe = torch.where(inside, concentration, abs(power) + 1.0)
        whole = torch.where(inside, total, abs(power) + 2.0)
    correction = fn.power_correction(safe, power) - fn.power_correction(whole, power)
    moment = (power * (safe / whole).log() + correction).exp()
    return moment if power >= 0.0 else torch.where(inside, moment, math.inf)


def proportions_at(concentration: Tensor, noise: Tensor) -> Tensor:
    """Return normalised gammas, each at the level of its noise.

    A proportion that rounds to 0 or 1 is the nearest one inside, as in torch's own sampler.

    :param concentration: positive numbers  # shape: (*batch, K)
    :param noise: standard normal numbers  # shape: (*sample, *batch, K)
    :return:  # shape: (*sample, *batch, K)
    """
    limits = torch.finfo(concentration.dtype)
    shares = log_gamma_at(noise, concentration).softmax(-1)
    return shares.clamp(limits.tiny, 1.0 - limits.eps / 2.0)


class Dirichlet(ExponentialFamily):
    """Dirichlet over K classes with concentration a, whose sum is a_0.

    - support: the simplex of K-vectors z
    - base measure: h(z) = 1
    - sufficient statistic: T(z) = (log z,)
    - natural: (a - 1,)
    - mean parameters: (psi(a) - psi(a_0),)
    - log-partition: sum log Gamma(a_i) - log Gamma(a_0); entropy: that - sum (a_i - 1) mean_i

    The density is with respect to the first K - 1 coordinates, as everywhere.
    """

    name = "Dirichlet"
    event_dim = 1
    natural_event_dims = (1,)
    support = constraints.simplex
    distribution_type = dist.Dirichlet
    has_rsample = True

    def log_partition(self, natural: Natural) -> Tensor:
        return log_normalizer(natural[0] + 1.0)

    def mean_params(self, natural: Natural) -> MeanParams:
        return (expected_logs(natural[0] + 1.0),)

    def natural(self, mean_params: MeanParams) -> Natural:
        return (concentration_of(mean_params[0]) - 1.0,)

    def sufficient_statistics(
        self, value: Tensor, natural: Natural | None = None
    ) -> tuple[Tensor, ...]:
        return (value.log(),)

    def in_domain(self, natural: Natural) -> Tensor:
        return ((natural[0] > -1.0) & (natural[0] < math.inf)).all(-1)

    def distribution(self, natural: Natural) -> Any:
        return dist.Dirichlet(natural[0] + 1.0)

    def natural_of(self, distribution: Any) -> Natural:
        dirichlet = unwrap(distribution)
        if not isinstance(dirichlet, torch.distributions.Dirichlet):
            raise self.wrong_distribution(distribution)
        return (dirichlet.concentration - 1.0,)

    def inverse_fisher(self, natural: Natural, covector: tuple[Tensor, ...]) -> Natural:
        return (inverse_fisher_of(natural[0] + 1.0, covector[0]),)

    def entropy(self, natural: Natural) -> Tensor:
        return entropy_of(natural[0] + 1.0)

    def kl(self, natural_q: Natural, natural_p: Natural) -> Tensor:
        return kl_of(natural_q[0] + 1.0, natural_p[0] + 1.0)

    def noise_shape(self, natural: Natural) -> tuple[int, ...]:
        return tuple(natural[0].shape)

    def at_noise(self, natural: Natural, noise: Tensor) -> Tensor:
        return proportions_at(natural[0] + 1.0, noise)

    def expected_power(self, natural: Natural, power: float) -> Tensor:
        concentration = natural[0] + 1.0
        return power_of(concentration, concentration.sum(-1, keepdim=True), power)


register_family(Dirichlet, torch.distributions.Dirichlet)
