# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

r"""Combinations of the multivariate gamma function that do not cancel, on tensors.

A Wishart with nu degrees of freedom in D dimensions is to the multivariate gamma function what a
Gamma is to the plain one, with the shape :math:`a = \nu/2`:

.. math::
    \log \Gamma_D(a) = \tfrac{D(D-1)}{4} \log \pi + \sum_{j=0}^{D-1} \log \Gamma(a_j), \qquad
    a_j = x + j/2, \qquad x = a - (D-1)/2.

Its squared Cholesky diagonal (Bartlett) has gammas of the shapes :math:`a_j`. All functions are of
the smallest of them, x, which is positive on the domain: near its edge, x = 0, the shape itself
would have lost the digits of x. The largest of them is a.
"""

import math

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_blr.families import gamma_functions as fn
from pyro_blr.families import matrices
from pyro_blr.families.gamma_quantile import log_gamma_at

from ..shapes import broadcast_shapes


def shapes(x: Tensor, dim: int) -> Tensor:
    """Return x + j/2 for j = 0, ..., D - 1; the last one is a = nu/2.

    :param x: positive numbers  # shape: (*batch,)
    :param dim: D.
    :return:  # shape: (*batch, D)
    """
    return x.unsqueeze(-1) + 0.5 * torch.arange(dim, dtype=x.dtype, device=x.device)


def _offsets(like: Tensor) -> Tensor:
    """Return a - a_j for each of the shapes, exactly  # shape: (D,)."""
    dim = like.shape[-1]
    return 0.5 * torch.arange(dim - 1, -1, -1, dtype=like.dtype, device=like.device)


def log_gamma(x: Tensor, dim: int) -> Tensor:
    """Return log Gamma_D(a).

    :param x: a - (D - 1)/2, positive numbers.
    :param dim: D.
    """
    constant = 0.25 * dim * (dim - 1) * math.log(math.pi)
    return fn.log_gamma(shapes(x, dim)).sum(-1) + constant


def digamma(x: Tensor, dim: int) -> Tensor:
    """Return psi_D(a), the derivative of log Gamma_D.

    :param x: a - (D - 1)/2, positive numbers.
    :param dim: D.
    """
    return fn.digamma(shapes(x, dim)).sum(-1)


def log_minus_digamma(x: Tensor, dim: int) -> Tensor:
    """Return D log a - psi_D(a), a sum of positive terms.

    :param x: a - (D - 1)/2, positive numbers.
    :param dim: D.
    """
    each = shapes(x, dim)
    logs = torch.log1p(_offsets(each) / each)
    return (fn.log_minus_digamma(each) + logs).sum(-1)


def trigamma_excess(x: Tensor, dim: int) -> Tensor:
    """Return a psi_D'(a) - D, a sum of positive terms.

    :param x: a - (D - 1)/2, positive numbers.
    :param dim: D.
    """
    each = shapes(x, dim)
    return (fn.trigamma_excess(each) + _offsets(each) * fn.trigamma(each)).sum(-1)


def unit_entropy(x: Tensor, dim: int) -> Tensor:
    """Return the entropy of a Wishart with V = I/2, through those of unit gammas, E(a).

    ``log Gamma_D(a) - (a - (D + 1)/2) psi_D(a) + a D`` has large terms that cancel; the same is
    ``sum_j (E(a_j) + j/2 psi(a_j)) + D(D - 1)/4 (1 + log pi)``.

    :param x: a - (D - 1)/2, positive numbers.
    :param dim: D.
    """
    each = shapes(x, dim)
    steps = _offsets(each).flip(-1)
    constant = 0.25 * dim * (dim - 1) * (1.0 + math.log(math.pi))
    return (fn.unit_gamma_entropy(each) + steps * fn.digamma(each)).sum(-1) + constant


def bregman_stirling(x_p: Tensor, x_q: Tensor, dim: int) -> Tensor:
    """Return the Bregman divergence of log Gamma_D(a) - D (a log a - a) between two points.

    Each gamma brings that of ``log Gamma(a_j) - a_j log a_j + a_j`` and, with s = a - a_j, what
    ``a log a - a`` changes under the shift: ``p log((1 - s/p)/(1 - s/q)) - s log(p_j/q_j)``.

    :param x_p: a - (D - 1)/2 of p, positive numbers.
    :param x_q: the same of q, where the tangent is taken.
    :param dim: D.
    """
    p, q = shapes(x_p, dim), shapes(x_q, dim)
    offsets = _offsets(p)
    # log(1 - s/a) = -log(1 + s/a_j): no difference of nearly equal numbers near x = 0.
    shift = p.narrow(-1, dim - 1, 1) * (torch.log1p(offsets / q) - torch.log1p(offsets / p))
    return (fn.bregman_stirling(p, q) + shift - offsets * (p / q).log()).sum(-1)


def inverse_log_minus_digamma(y: Tensor, dim: int) -> Tensor:
    """Return x with D log a - psi_D(a) = y, by Newton's method.

    The left side g is completely monotone in x, and 1/g close to a line at both ends. Newton's
    method on 1/g rises to the root from ``x = 1/(2 y)`` or ``a = D(D + 1)/(4 y)``, the larger of
    two lower bounds (from log a - psi(a) >= 1/2a). Between x = 1/D and x = D, where g is flat,
    the start is far off: 4 steps reach rounding for D = 1, one more for each doubling of D.

    :param y: positive numbers.
    :param dim: D.
    """
    offset = 0.5 * (dim - 1.0)
    x = torch.maximum(0.5 / y, 0.25 * dim * (dim + 1.0) / y - offset)
    for _ in range(4 + (dim - 1).bit_length()):
        current = log_minus_digamma(x, dim)
        x = x + (current / y) * (current - y) * (x + offset) / trigamma_excess(x, dim)
    return x


def bartlett_factor(x: Tensor, dim: int, sample_shape: tuple[int, ...] = ()) -> Tensor:
    """Return draws of a lower triangular B with ``B B' ~ Wishart(nu, I/2)``, differentiable in x.

    The squared diagonal has unit gammas of the shapes a_j, the largest first, the rest normal
    numbers of variance 1/2.

    :param x: a - (D - 1)/2, positive numbers  # shape: (*batch,)
    :param dim: D.
    :param sample_shape: shape of the independent draws.
    :return:  # shape: (*sample_shape, *batch, D, D)
    """
    each = shapes(x, dim).flip(-1)
    unit = dist.Gamma(each, torch.ones_like(each), validate_args=False)
    squares = unit.rsample(torch.Size(sample_shape))
    noise = torch.randn((*squares.shape, dim), dtype=x.dtype, device=x.device)
    return torch.diag_embed(squares.sqrt()) + math.sqrt(0.5) * noise.tril(-1)


def draws(x: Tensor, factor: Tensor, sample_shape: tuple[int, ...] = ()) -> tuple[Tensor, Tensor]:
    """Return draws of a Wishart as ``root root'``, differentiable in x and in the factor.

    For K = C'^-1, ``K B B' K'`` has the scale ``K K'/2 = (C C')^-1/2``.

    :param x: a - (D - 1)/2, positive numbers  # shape: (*batch,)
    :param factor: C, the Cholesky factor of V^-1/2  # shape: (*batch, D, D)
    :param sample_shape: shape of the independent draws.
    :return: root = K B, and B  # shapes: (*sample_shape, *batch, D, D)
    """
    # One draw of x for each matrix of the factor's batch, also where x has fewer.
    each = x.expand(broadcast_shapes(x.shape, factor.shape[:-2]))
    bartlett = bartlett_factor(each, factor.shape[-1], sample_shape)
    return wishart_root(factor, bartlett), bartlett


def wishart_root(factor: Tensor, bartlett: Tensor) -> Tensor:
    """Return K B with K = C'^-1.

    :param factor: C  # shape: (*batch, D, D)
    :param bartlett: B  # shape: (*sample, *batch, D, D)
    """
    return matrices.triangular_solve(factor.mT, bartlett, upper=True)


def bartlett_noise(dim: int) -> int:
    """Return how many standard normal numbers a draw of :func:`bartlett_at` takes."""
    return dim * (dim + 1) // 2


def bartlett_at(x: Tensor, noise: Tensor, dim: int) -> Tensor:
    """Return B as in :func:`bartlett_factor`, a smooth function of x at given noise.

    :param x: a - (D - 1)/2, positive numbers  # shape: (*batch,)
    :param noise: standard normal numbers, the diagonal's first  # shape: (*sample, *batch, n)
    :param dim: D.
    :return:  # shape: (*sample, *batch, D, D)
    """
    roots = (0.5 * log_gamma_at(noise[..., :dim], shapes(x, dim).flip(-1))).exp()
    below = torch.zeros((*noise.shape[:-1], dim, dim), dtype=x.dtype, device=x.device)
    rows, columns = torch.tril_indices(dim, dim, -1, device=x.device)
    below[..., rows, columns] = math.sqrt(0.5) * noise[..., dim:].to(x.dtype)
    return torch.diag_embed(roots) + below
