# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities of Gaussian vectors and of their precision matrices."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from .. import constants
from ..matrices import precision_of
from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from .real import LOG_2PI
from .registry import as_given, register_density
from .special import as_tensor


def _reads(fn: Any) -> dict[str, Any]:
    """The location, and the covariance in the form that was given (or what torch keeps of it)."""
    given = as_given(fn)
    if not given.keys() & {"covariance_matrix", "precision_matrix", "scale_tril"}:
        given["scale_tril"] = fn._unbroadcasted_scale_tril
    return given


@register_density(dist.MultivariateNormal, _reads)
def multivariate_normal(
    value: Numeric,
    loc: Numeric,
    covariance_matrix: Numeric | None = None,
    precision_matrix: Numeric | None = None,
    scale_tril: Numeric | None = None,
) -> Polynomial:
    """The normal density of a vector, by any of the three forms of its covariance.

    The form may be a constant, or depend on latents as :mod:`~pyro_blr.lifting.matrices` says.
    """
    forms = {
        "scale_tril": scale_tril,
        "precision_matrix": precision_matrix,
        "covariance_matrix": covariance_matrix,
    }
    name, matrix = next((n, m) for n, m in forms.items() if m is not None)
    precision, half_log_det = precision_of(name, matrix)
    residual = polynomial(value) - loc
    rows = residual.with_dims((*residual.dims, None))
    columns = residual.with_dims((*residual.dims[:-1], None, residual.dims[-1]))
    quadratic = (rows * columns * precision).sum((-2, -1))
    return quadratic * -0.5 + half_log_det - 0.5 * LOG_2PI * precision.shape[-1]


def _reads_wishart(fn: Any) -> dict[str, Any]:
    """The degrees of freedom and V^-1, which torch's Wishart names precision_matrix."""
    return {"df": fn.df, "precision_matrix": fn.precision_matrix}


@register_density(dist.Wishart, _reads_wishart)
def wishart(
    value: Numeric,
    df: Numeric,
    covariance_matrix: Numeric | None = None,
    precision_matrix: Numeric | None = None,
    scale_tril: Numeric | None = None,
) -> Polynomial:
    """``(df - D - 1)/2 log|value| - tr(V^-1 value)/2`` less its normaliser, df and V constants."""
    forms = {
        "scale_tril": scale_tril,
        "precision_matrix": precision_matrix,
        "covariance_matrix": covariance_matrix,
    }
    name, matrix = next((n, m) for n, m in forms.items() if m is not None)
    inverse, half_log_det = precision_of(name, matrix)
    freedom = polynomial(df)
    size = inverse.shape[-1]
    trace = (polynomial(value) * inverse).sum((-2, -1))
    if not freedom.is_constant:
        raise NotPolynomial("`mvlgamma` of a latent")
    log_normalizer = polynomial(constants.memo(_log_normalizer, (as_tensor(df),), size))
    powers = _log_det(value) * (freedom - (size + 1)) * 0.5
    return powers - trace * 0.5 + half_log_det * freedom - log_normalizer


def _log_det(value: Numeric) -> Polynomial:
    """log|value| of a latent matrix, or of data."""
    if isinstance(value, Polynomial):
        return precision_of("precision_matrix", value)[1] * 2.0
    return polynomial(constants.memo(torch.logdet, (as_tensor(value),)))


def _log_normalizer(df: Tensor, size: int) -> Tensor:
    """The logarithm of a Wishart's normaliser at V = I."""
    half = df.double() / 2
    return torch.mvlgamma(half, size) + half * size * math.log(2)
