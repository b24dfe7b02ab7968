# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Divergences that torch does not have, or not for batches, from the textbook."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, digamma, lgamma

from pyro_blr import families as f
from tests.families.cards import arrow_head, chain_precision, multivariate_digamma, von_mises


def kl_gamma(q: Any, p: Any) -> Tensor:
    a, b, c, d = q.concentration, q.rate, p.concentration, p.rate
    return (a - c) * digamma(a) - lgamma(a) + lgamma(c) + c * (b.log() - d.log()) + a * (d - b) / b


def kl_wishart(q: Any, p: Any) -> Tensor:
    D, V = q.event_shape[-1], q.covariance_matrix
    ratio = p.precision_matrix @ V
    trace = ratio.diagonal(dim1=-2, dim2=-1).sum(-1)
    gammas = torch.mvlgamma(p.df / 2, D) - torch.mvlgamma(q.df / 2, D)
    digammas = (q.df - p.df) / 2 * multivariate_digamma(q.df / 2, D)
    return gammas + digammas - p.df / 2 * torch.logdet(ratio) + q.df / 2 * (trace - D)


def kl_normal_gamma(q: Any, p: Any) -> Tensor:
    # The expectation over tau of the divergence of two normals, and that of tau itself.
    ratio = torch.linalg.solve(q.precision_matrix, p.precision_matrix)
    gap = q.loc - p.loc
    square = torch.einsum("...i,...ij,...j->...", gap, p.precision_matrix, gap)
    trace = ratio.diagonal(dim1=-2, dim2=-1).sum(-1)
    spread = trace - gap.shape[-1] - torch.logdet(ratio)
    return kl_gamma(q, p) + (spread + q.concentration / q.rate * square) / 2


def kl_normal_wishart(q: Any, p: Any) -> Tensor:
    q_l = torch.distributions.Wishart(q.df, precision_matrix=q.precision_matrix)
    p_l = torch.distributions.Wishart(p.df, precision_matrix=p.precision_matrix)
    gap, ratio = q.loc - p.loc, p.kappa / q.kappa
    square = torch.einsum("...i,...ij,...j->...", gap, q_l.mean, gap)
    spread = gap.shape[-1] * (ratio - 1 - ratio.log())
    return kl_wishart(q_l, p_l) + (spread + p.kappa * square) / 2


def kl_negative_binomial(q: Any, p: Any) -> Tensor:
    log_ratio, mean = q.probs.log() - p.probs.log(), q.total_count * q.probs / (1 - q.probs)
    return q.total_count * ((1 - q.probs).log() - (1 - p.probs).log()) + mean * log_ratio


def kl_multinomial(q: Any, p: Any) -> Tensor:
    return q.total_count * (q.probs * (q.probs.log() - p.probs.log())).sum(-1)


def kl_von_mises(q: Any, p: Any) -> Tensor:
    q_card, p_card = von_mises(q, q.loc), von_mises(p, p.loc)
    pairs = zip(q_card.natural, p_card.natural, q_card.mean_params, strict=True)
    inner = sum((a - b) * m for a, b, m in pairs)
    return p_card.log_partition - q_card.log_partition + inner


def kl_arrow_normal(q: Any, p: Any) -> Tensor:
    q, p = (dist.MultivariateNormal(d.mean, precision_matrix=arrow_head(d)[0]) for d in (q, p))
    return torch.distributions.kl_divergence(q, p)


def kl_chain_normal(q: Any, p: Any) -> Tensor:
    q, p = (
        dist.MultivariateNormal(d.loc.flatten(-2), precision_matrix=chain_precision(d))
        for d in (q, p)
    )
    return torch.distributions.kl_divergence(q, p)


def kl_sign_bernoulli(q: Any, p: Any) -> Tensor:
    return torch.distributions.kl_divergence(
        dist.Bernoulli(logits=q.logits), dist.Bernoulli(logits=p.logits)
    )


KLS: dict[type, Callable[[Any, Any], Tensor]] = {
    f.ArrowNormal: kl_arrow_normal,
    f.ChainNormal: kl_chain_normal,
    f.Wishart: kl_wishart,
    f.NormalGamma: kl_normal_gamma,
    f.NormalInverseGamma: kl_normal_gamma,
    f.NormalWishart: kl_normal_wishart,
    f.NegativeBinomial: kl_negative_binomial,
    f.Multinomial: kl_multinomial,
    f.SignBernoulli: kl_sign_bernoulli,
    f.VonMises: kl_von_mises,
}
