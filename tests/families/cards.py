# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The six lines of every family's docstring, transcribed from it formula by formula.

Everything is computed from the parameters of the Pyro distribution with plain torch functions and
in the notation of the docstring; nothing here calls the families.
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, digamma, lgamma

from pyro_blr import families as f

HEADINGS = (
    "support",
    "base measure",
    "sufficient statistic",
    "natural",
    "mean parameters",
    "log-partition",
)
LOG_TWO_PI = math.log(2 * math.pi)


class Card(NamedTuple):
    log_base_measure: Tensor
    statistics: tuple[Tensor, ...]
    natural: tuple[Tensor, ...]
    mean_params: tuple[Tensor, ...]
    log_partition: Tensor
    entropy: Tensor


def one(z: Tensor, event_dim: int = 0) -> Tensor:
    """log h(z) for h(z) = 1."""
    return torch.zeros(z.shape[: z.dim() - event_dim], dtype=z.dtype)


def normal(q: Any, z: Tensor) -> Card:
    m, S = q.loc, q.scale**-2
    return Card(
        one(z),
        (z, z**2),
        (S * m, -S / 2),
        (m, m**2 + 1 / S),
        S * m**2 / 2 - S.log() / 2 + LOG_TWO_PI / 2,
        0.5 + LOG_TWO_PI / 2 - S.log() / 2,
    )


def multivariate_normal(q: Any, z: Tensor) -> Card:
    m, V = q.loc, q.covariance_matrix
    S, D = V.inverse(), m.shape[-1]
    Sm = torch.einsum("...ij,...j->...i", S, m)
    log_det = torch.logdet(S)
    return Card(
        one(z, 1),
        (z, torch.einsum("...i,...j->...ij", z, z)),
        (Sm, -S / 2),
        (m, torch.einsum("...i,...j->...ij", m, m) + V),
        (m * Sm).sum(-1) / 2 - log_det / 2 + D * LOG_TWO_PI / 2,
        D / 2 + D * LOG_TWO_PI / 2 - log_det / 2,
    )


def diagonal_normal(q: Any, z: Tensor) -> Card:
    each = normal(q.base_dist, z)
    return Card(
        one(z, 1),
        each.statistics,
        each.natural,
        each.mean_params,
        each.log_partition.sum(-1),
        each.entropy.sum(-1),
    )


def shared_covariance_normal(q: Any, z: Tensor) -> Card:
    M, P = q.base_dist.loc, q.base_dist.precision_matrix[..., 0, :, :]
    N, D = M.shape[-2:]
    MP, log_det = torch.einsum("...ni,...ij->...nj", M, P), torch.logdet(P)
    return Card(
        one(z, 2),
        (z, torch.einsum("...ni,...nj->...ij", z, z)),
        (MP, -P / 2),
        (M, torch.einsum("...ni,...nj->...ij", M, M) + N * P.inverse()),
        (M * MP).sum((-2, -1)) / 2 - N * log_det / 2 + N * D * LOG_TWO_PI / 2,
        N * D / 2 + N * D * LOG_TWO_PI / 2 - N * log_det / 2,
    )


def arrow_head(q: Any) -> tuple[Tensor, list[slice]]:
    """The full precision matrix, and the places of the groups in it."""
    G, (N, L) = q.global_loc.shape[-1], q.local_loc.shape[-2:]
    D = G + N * L
    S = torch.zeros(*q.batch_shape, D, D, dtype=q.global_loc.dtype)
    S[..., :G, :G] = q.global_precision
    places = [slice(G + n * L, G + (n + 1) * L) for n in range(N)]
    for n, place in enumerate(places):
        S[..., :G, place] = q.cross_precision[..., n, :, :]
        S[..., place, :G] = q.cross_precision[..., n, :, :].mT
        S[..., place, place] = q.local_precision[..., n, :, :]
    return S, places


def arrow_normal(q: Any, z: Tensor) -> Card:
    S, places = arrow_head(q)
    m, G = torch.cat([q.global_loc, q.local_loc.flatten(-2)], -1), q.global_loc.shape[-1]

    def vectors(v: Tensor) -> tuple[Tensor, Tensor]:
        return v[..., :G], v[..., G:].unflatten(-1, q.local_loc.shape[-2:])

    def parts(M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        cross = torch.stack([M[..., :G, place] for place in places], -3)
        local = torch.stack([M[..., place, place] for place in places], -3)
        return M[..., :G, :G], cross, local

    whole = multivariate_normal(torch.distributions.MultivariateNormal(m, precision_matrix=S), z)
    full, cross, local = parts(S)
    return whole._replace(
        statistics=(*vectors(z), *parts(whole.statistics[1])),
        natural=(*vectors(whole.natural[0]), -full / 2, -cross, -local / 2),
        mean_params=(*vectors(m), *parts(whole.mean_params[1])),
    )


def chain_places(q: Any) -> list[slice]:
    """The places of the times in the stacked vector."""
    T, D = q.event_shape
    return [slice(t * D, (t + 1) * D) for t in range(T)]


def chain_precision(q: Any) -> Tensor:
    """The full precision matrix."""
    places = chain_places(q)
    size = places[-1].stop
    S = torch.zeros(*q.batch_shape, size, size, dtype=q.loc.dtype)
    for t, place in enumerate(places):
        S[..., place, place] = q.precision[..., t, :, :]
        if t:
            S[..., places[t - 1], place] = q.cross_precision[..., t - 1, :, :]
            S[..., place, places[t - 1]] = q.cross_precision[..., t - 1, :, :].mT
    return S


def chain_normal(q: Any, z: Tensor) -> Card:
    S, places, shape = chain_precision(q), chain_places(q), q.event_shape

    def parts(M: Tensor) -> tuple[Tensor, Tensor]:
        own = torch.stack([M[..., place, place] for place in places], -3)
        return own, torch.stack([M[..., a, b] for a, b in pairwise(places)], -3)

    flat = torch.distributions.MultivariateNormal(q.loc.flatten(-2), precision_matrix=S)
    whole = multivariate_normal(flat, z.flatten(-2))
    own, beside = parts(S)
    return whole._replace(
        statistics=(z, *parts(whole.statistics[1])),
        natural=(whole.natural[0].unflatten(-1, shape), -own / 2, -beside),
        mean_params=(q.loc, *parts(whole.mean_params[1])),
    )


def gamma(q: Any, z: Tensor) -> Card:
    a, b = q.concentration, q.rate
    return Card(
        one(z),
        (z.log(), z),
        (a - 1, -b),
        (digamma(a) - b.log(), a / b),
        lgamma(a) - a * b.log(),
        a - b.log() + lgamma(a) + (1 - a) * digamma(a),
    )


def beta(q: Any, z: Tensor) -> Card:
    a, b = q.concentration1, q.concentration0
    log_b = lgamma(a) + lgamma(b) - lgamma(a + b)
    mean_1, mean_2 = digamma(a) - digamma(a + b), digamma(b) - digamma(a + b)
    return Card(
        one(z),
        (z.log(), (1 - z).log()),
        (a - 1, b - 1),
        (mean_1, mean_2),
        log_b,
        log_b - (a - 1) * mean_1 - (b - 1) * mean_2,
    )


def dirichlet(q: Any, z: Tensor) -> Card:
    a = q.concentration
    a_0 = a.sum(-1, keepdim=True)
    mean = digamma(a) - digamma(a_0)
    log_partition = lgamma(a).sum(-1) - lgamma(a_0).squeeze(-1)
    entropy = log_partition - ((a - 1) * mean).sum(-1)
    return Card(one(z, 1), (z.log(),), (a - 1,), (mean,), log_partition, entropy)


def bernoulli(q: Any, z: Tensor) -> Card:
    p = q.probs
    return Card(
        one(z),
        (z,),
        (p.log() - (1 - p).log(),),
        (p,),
        -(1 - p).log(),
        -p * p.log() - (1 - p) * (1 - p).log(),
    )


def sign_bernoulli(q: Any, z: Tensor) -> Card:
    p = q.logits.sigmoid()
    return Card(
        one(z),
        (z,),
        ((p.log() - (1 - p).log()) / 2,),
        (2 * p - 1,),
        -(p.log() + (1 - p).log()) / 2,
        -p * p.log() - (1 - p) * (1 - p).log(),
    )


def fixed_scale_normal(q: Any, z: Tensor) -> Card:
    s = q.scale
    return Card(
        -(z**2) / (2 * s**2) - s.log() - LOG_TWO_PI / 2,
        (z,),
        (q.loc / s**2,),
        (q.loc,),
        q.loc**2 / (2 * s**2),
        0.5 + s.log() + LOG_TWO_PI / 2,
    )


def categorical(q: Any, z: Tensor) -> Card:
    p = q.probs
    classes = p.shape[-1]
    return Card(
        one(p[..., 0]).expand(z.shape),
        (torch.nn.functional.one_hot(z, classes)[..., :-1].to(p),),
        (p[..., :-1].log() - p[..., -1:].log(),),
        (p[..., :-1],),
        -p[..., -1].log(),
        -(p * p.log()).sum(-1),
    )


# Enough for the means of the tests, at most 40: the tails beyond are below 1e-17.
COUNTS = torch.arange(2000.0, dtype=torch.float64)


def expected(log_probs: Callable[[Tensor], Tensor], batch: torch.Size, of: Tensor) -> Tensor:
    """The sum over all counts of a probability times a function of the count."""
    counts = COUNTS[: len(of)]
    probs = log_probs(counts.view(-1, *[1] * len(batch)).expand(-1, *batch)).exp()
    return (probs.movedim(0, -1) * of).sum(-1)


def poisson(q: Any, z: Tensor) -> Card:
    r = q.rate
    log_factorial = expected(lambda k: k * r.log() - r - lgamma(k + 1), r.shape, lgamma(COUNTS + 1))
    return Card(-lgamma(z + 1), (z,), (r.log(),), (r,), r, r - r * r.log() + log_factorial)


def geometric(q: Any, z: Tensor) -> Card:
    p = q.probs
    entropy = -p.log() - (1 - p).log() * (1 - p) / p
    return Card(one(z), (z,), ((1 - p).log(),), ((1 - p) / p,), -p.log(), entropy)


def log_choose(n: Tensor, z: Tensor) -> Tensor:
    return lgamma(n + 1) - lgamma(z + 1) - lgamma(n - z + 1)


def binomial(q: Any, z: Tensor) -> Card:
    p, n = q.probs, q.total_count
    counts = COUNTS[: int(n.max()) + 1]
    log_h = expected(
        lambda k: log_choose(n, k) + k * p.log() + (n - k) * (1 - p).log(),
        p.shape,
        log_choose(n.max(), counts),
    )
    return Card(
        log_choose(n, z),
        (z,),
        (p.log() - (1 - p).log(),),
        (n * p,),
        -n * (1 - p).log(),
        -n * (p * p.log() + (1 - p) * (1 - p).log()) - log_h,
    )


def negative_binomial(q: Any, z: Tensor) -> Card:
    p, k = q.probs, q.total_count
    log_h = expected(
        lambda z: lgamma(z + k) - lgamma(z + 1) - lgamma(k) + z * p.log() + k * (1 - p).log(),
        p.shape,
        lgamma(COUNTS + k.max()) - lgamma(COUNTS + 1) - lgamma(k.max()),
    )
    return Card(
        lgamma(z + k) - lgamma(z + 1) - lgamma(k),
        (z,),
        (p.log(),),
        (k * p / (1 - p),),
        -k * (1 - p).log(),
        -k * ((1 - p).log() + p.log() * p / (1 - p)) - log_h,
    )


def multinomial(q: Any, z: Tensor) -> Card:
    p, n = q.probs, torch.tensor(float(q.total_count), dtype=torch.float64)
    counts = COUNTS[: int(n) + 1]
    log_factorials = expected(
        lambda k: log_choose(n, k) + k * p.log() + (n - k) * (1 - p).log(),
        p.shape,
        lgamma(counts + 1),
    ).sum(-1)
    return Card(
        lgamma(n + 1) - lgamma(z + 1).sum(-1),
        (z[..., :-1],),
        (p[..., :-1].log() - p[..., -1:].log(),),
        (n * p[..., :-1],),
        -n * p[..., -1].log(),
        -n * (p * p.log()).sum(-1) - lgamma(n + 1) + log_factorials,
    )


def exponential(q: Any, z: Tensor) -> Card:
    r = q.rate
    return Card(one(z), (z,), (-r,), (1 / r,), -r.log(), 1 - r.log())


def log_normal(q: Any, z: Tensor) -> Card:
    of_log = normal(q.base_dist, z.log())
    return of_log._replace(log_base_measure=-z.log(), entropy=q.loc + of_log.entropy)


def von_mises(q: Any, z: Tensor) -> Card:
    m, k = q.loc, q.concentration
    log_i0, A = torch.special.i0(k).log(), torch.special.i1(k) / torch.special.i0(k)
    return Card(
        one(z),
        (z.cos(), z.sin()),
        (k * m.cos(), k * m.sin()),
        (A * m.cos(), A * m.sin()),
        LOG_TWO_PI + log_i0,
        LOG_TWO_PI + log_i0 - k * A,
    )


def inverse_gamma(q: Any, z: Tensor) -> Card:
    a, b = q.concentration, q.rate
    return Card(
        one(z),
        (z.log(), 1 / z),
        (-a - 1, -b),
        (b.log() - digamma(a), a / b),
        lgamma(a) - a * b.log(),
        a + b.log() + lgamma(a) - (1 + a) * digamma(a),
    )


def multivariate_digamma(a: Tensor, D: int) -> Tensor:
    return sum((digamma(a - i / 2) for i in range(D)), torch.zeros_like(a))


def wishart(q: Any, z: Tensor) -> Card:
    nu, V = q.df, q.covariance_matrix
    D = V.shape[-1]
    log_det, log_gamma = torch.logdet(V), torch.mvlgamma(nu / 2, D)
    psi = multivariate_digamma(nu / 2, D)
    return Card(
        one(z, 2),
        (torch.logdet(z), z),
        ((nu - D - 1) / 2, -V.inverse() / 2),
        (psi + D * math.log(2) + log_det, nu[..., None, None] * V),
        log_gamma + nu * D * math.log(2) / 2 + nu * log_det / 2,
        log_gamma
        + D * (D + 1) * math.log(2) / 2
        + (D + 1) * log_det / 2
        - (nu - D - 1) * psi / 2
        + nu * D / 2,
    )


def normal_gamma(q: Any, z: Tensor) -> Card:
    a, b, m, P = q.concentration, q.rate, q.loc, q.precision_matrix
    z, tau = z[..., :-1], z[..., -1]
    D, log_det = m.shape[-1], torch.logdet(P)
    Pm = torch.einsum("...ij,...j->...i", P, m)
    mm = torch.einsum("...i,...j->...ij", m, m)
    zz = torch.einsum("...i,...j->...ij", z, z)
    entropy = a - b.log() + lgamma(a) + (1 - a) * digamma(a)
    return Card(
        one(z, 1),
        (tau.log(), tau, tau[..., None] * z, tau[..., None, None] * zz),
        (a - 1 + D / 2, -b - (m * Pm).sum(-1) / 2, Pm, -P / 2),
        (
            digamma(a) - b.log(),
            a / b,
            m * (a / b)[..., None],
            P.inverse() + mm * (a / b)[..., None, None],
        ),
        lgamma(a) - a * b.log() - log_det / 2 + D * LOG_TWO_PI / 2,
        entropy + D * (1 + LOG_TWO_PI - digamma(a) + b.log()) / 2 - log_det / 2,
    )


def normal_inverse_gamma(q: Any, z: Tensor) -> Card:
    a, b, m, P = q.concentration, q.rate, q.loc, q.precision_matrix
    z, s = z[..., :-1], z[..., -1]
    D, log_det = m.shape[-1], torch.logdet(P)
    Pm = torch.einsum("...ij,...j->...i", P, m)
    mm = torch.einsum("...i,...j->...ij", m, m)
    zz = torch.einsum("...i,...j->...ij", z, z)
    entropy = a + b.log() + lgamma(a) - (1 + a) * digamma(a)
    return Card(
        one(z, 1),
        (s.log(), 1 / s, z / s[..., None], zz / s[..., None, None]),
        (-a - 1 - D / 2, -b - (m * Pm).sum(-1) / 2, Pm, -P / 2),
        (
            b.log() - digamma(a),
            a / b,
            m * (a / b)[..., None],
            P.inverse() + mm * (a / b)[..., None, None],
        ),
        lgamma(a) - a * b.log() - log_det / 2 + D * LOG_TWO_PI / 2,
        entropy + D * (1 + LOG_TWO_PI - digamma(a) + b.log()) / 2 - log_det / 2,
    )


def normal_wishart(q: Any, z: Tensor) -> Card:
    m, kappa, nu, V = q.loc, q.kappa, q.df, q.precision_matrix.inverse()
    D = m.shape[-1]
    z, L = z[..., :D], z[..., D:].reshape(*z.shape[:-1], D, D)
    whole = wishart(torch.distributions.Wishart(nu, covariance_matrix=V), L)
    Vm, Lz = torch.einsum("...ij,...j->...i", V, m), torch.einsum("...ij,...j->...i", L, z)
    mm = torch.einsum("...i,...j->...ij", m, m)
    expected_log = whole.mean_params[0]
    return Card(
        one(z, 1),
        (torch.logdet(L), L, Lz, (z * Lz).sum(-1)),
        (
            (nu - D) / 2,
            -V.inverse() / 2 - kappa[..., None, None] * mm / 2,
            kappa[..., None] * m,
            -kappa / 2,
        ),
        (
            expected_log,
            nu[..., None, None] * V,
            nu[..., None] * Vm,
            D / kappa + nu * (m * Vm).sum(-1),
        ),
        whole.log_partition - D * kappa.log() / 2 + D * LOG_TWO_PI / 2,
        whole.entropy + D * (1 + LOG_TWO_PI - kappa.log()) / 2 - expected_log / 2,
    )


CARDS: dict[type, Callable[[Any, Tensor], Card]] = {
    f.Normal: normal,
    f.MultivariateNormal: multivariate_normal,
    f.DiagonalNormal: diagonal_normal,
    f.SharedCovarianceNormal: shared_covariance_normal,
    f.ArrowNormal: arrow_normal,
    f.ChainNormal: chain_normal,
    f.Gamma: gamma,
    f.Beta: beta,
    f.Dirichlet: dirichlet,
    f.Bernoulli: bernoulli,
    f.SignBernoulli: sign_bernoulli,
    f.FixedScaleNormal: fixed_scale_normal,
    f.Categorical: categorical,
    f.InverseGamma: inverse_gamma,
    f.Wishart: wishart,
    f.NormalGamma: normal_gamma,
    f.NormalInverseGamma: normal_inverse_gamma,
    f.NormalWishart: normal_wishart,
    f.Poisson: poisson,
    f.Geometric: geometric,
    f.Binomial: binomial,
    f.NegativeBinomial: negative_binomial,
    f.Multinomial: multinomial,
    f.Exponential: exponential,
    f.LogNormal: log_normal,
    f.VonMises: von_mises,
}
