# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The combinations of multivariate gamma functions against 60 digits of mpmath."""

import mpmath
import pytest
import torch
from torch import Tensor

from pyro_blr.families import Gamma, Wishart
from pyro_blr.families import wishart_functions as fn

mp = mpmath.mp.clone()
mp.dps = 60

X = torch.logspace(-3, 8, 67, dtype=torch.float64)
DIMS = (1, 2, 3, 7, 50)
every_dim = pytest.mark.parametrize("dim", DIMS)


def shapes(x, dim):
    """The shapes a - i/2 of the docstring, from a = x + (D - 1)/2."""
    a = mp.mpf(x) + mp.mpf(dim - 1) / 2
    return a, [a - mp.mpf(i) / 2 for i in range(dim)]


def log_gamma(x, dim):
    _, each = shapes(x, dim)
    return mp.mpf(dim * (dim - 1)) / 4 * mp.log(mp.pi) + sum(map(mp.loggamma, each))


def digamma(x, dim):
    return sum(map(mp.digamma, shapes(x, dim)[1]))


def log_minus_digamma(x, dim):
    return dim * mp.log(shapes(x, dim)[0]) - digamma(x, dim)


def trigamma_excess(x, dim):
    a, each = shapes(x, dim)
    return a * sum(mp.polygamma(1, b) for b in each) - dim


def entropy(x, dim):
    a = shapes(x, dim)[0]
    return log_gamma(x, dim) - (a - mp.mpf(dim + 1) / 2) * digamma(x, dim) + a * dim


def reference(function, x: Tensor, dim: int) -> Tensor:
    return torch.tensor([float(function(mp.mpf(v), dim)) for v in x.tolist()], dtype=torch.float64)


@every_dim
@pytest.mark.parametrize(
    ("name", "rtol", "atol"),
    [
        ("log_gamma", 1e-14, 1e-13),
        ("digamma", 1e-14, 1e-13),
        ("log_minus_digamma", 3e-14, 0.0),
        ("trigamma_excess", 3e-14, 0.0),
    ],
)
def test_against_mpmath(name, rtol, atol, dim):
    ours = getattr(fn, name)(X, dim)
    torch.testing.assert_close(ours, reference(globals()[name], X, dim), rtol=rtol, atol=atol)


@every_dim
def test_entropy(dim):
    # Terms of dim log(a) nats are left; the textbook's have size a dim.
    atol = 1e-13 * dim * dim
    exact = reference(entropy, X, dim)
    torch.testing.assert_close(fn.unit_entropy(X, dim), exact, rtol=1e-14, atol=atol)


@every_dim
@pytest.mark.parametrize("change", [0.0, 1e-9, 1e-4, 0.3, 9.0])
def test_bregman_stirling(dim, change):
    other = X * (1 + change)
    ours = fn.bregman_stirling(other, X, dim)
    exact = []
    for x_q, x_p in zip(X.tolist(), other.tolist(), strict=True):
        q, p = shapes(x_q, dim)[0], shapes(x_p, dim)[0]
        stirling = [log_gamma(x, dim) - dim * (a * mp.log(a) - a) for x, a in ((x_p, p), (x_q, q))]
        slope = digamma(x_q, dim) - dim * mp.log(q)
        exact.append(float(stirling[0] - stirling[1] - (p - q) * slope))
    exact = torch.tensor(exact, dtype=torch.float64)
    torch.testing.assert_close(ours, exact, rtol=1e-12, atol=1e-13 * dim * dim)


@pytest.mark.parametrize("dim", [*DIMS, 1000])
def test_inverse_log_minus_digamma(dim):
    y = fn.log_minus_digamma(X, dim)
    torch.testing.assert_close(fn.inverse_log_minus_digamma(y, dim), X, rtol=3e-14, atol=0.0)


def test_a_wishart_of_one_dimension_is_a_gamma():
    a, b = X, X.flip(0)
    gamma, wishart = (a - 1, -b), (a - 1, -b.unsqueeze(-1).unsqueeze(-1))
    other = (a * 1.3 - 1, -b * 0.6), (a * 1.3 - 1, -0.6 * b.unsqueeze(-1).unsqueeze(-1))
    for name in ("log_partition", "entropy"):
        expected = getattr(Gamma(), name)(gamma)
        torch.testing.assert_close(getattr(Wishart(), name)(wishart), expected, rtol=1e-13, atol=0)
    expected = Gamma().kl(gamma, other[0])
    torch.testing.assert_close(Wishart().kl(wishart, other[1]), expected, rtol=1e-12, atol=1e-13)
    for got, expected in zip(
        Wishart().inverse_fisher(wishart, (a, b.unsqueeze(-1).unsqueeze(-1))),
        Gamma().inverse_fisher(gamma, (a, b)),
        strict=True,
    ):
        torch.testing.assert_close(got.reshape(-1), expected, rtol=1e-9, atol=0.0)


def test_concentrated_wishart_kl():
    # nu = 1e8: the textbook formula, in float64, is wrong by 1e-6 nats.
    dim, x_q, x_p = 3, 5e7, 5.1e7
    root = torch.tensor([[2.0, 0, 0], [0.3, 1, 0], [-0.4, 0.7, 3]], dtype=torch.float64)
    rate_q = root @ root.mT
    rate_p = 1.021 * rate_q + 1e-5 * torch.eye(dim, dtype=torch.float64)
    q, p = ((torch.tensor(x - 1.0), -r) for x, r in ((x_q, rate_q), (x_p, rate_p)))
    a_q, a_p = shapes(x_q, dim)[0], shapes(x_p, dim)[0]
    w_q, w_p = (mp.matrix(rate.tolist()) for rate in (rate_q, rate_p))
    ratio = w_p * w_q**-1
    exact = log_gamma(x_p, dim) - log_gamma(x_q, dim) + (a_q - a_p) * digamma(x_q, dim)
    trace = sum(ratio[i, i] for i in range(dim))
    exact += a_q * (trace - dim) - a_p * mp.log(mp.det(ratio))
    assert abs(Wishart().kl(q, p).item() / float(exact) - 1) < 1e-9
