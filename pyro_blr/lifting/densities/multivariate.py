# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities of Gaussian vectors."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from .. import constants
from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from .real import LOG_2PI
from .registry import as_given, register_density


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
    """The normal density of a vector, its covariance (in any of three forms) a constant."""
    precision, half_log_det = _precision(covariance_matrix, precision_matrix, scale_tril)
    residual = polynomial(value) - loc
    rows = residual.with_dims((*residual.dims, None))
    columns = residual.with_dims((*residual.dims[:-1], None, residual.dims[-1]))
    quadratic = (rows * columns * precision).sum((-2, -1))
    return quadratic * -0.5 + half_log_det - 0.5 * LOG_2PI * precision.shape[-1]


def _precision(
    covariance: Numeric | None, precision: Numeric | None, scale_tril: Numeric | None
) -> tuple[Tensor, Polynomial]:
    """The precision matrix and half its log determinant, of a constant covariance."""
    given = [
        (m, f)
        for m, f in (
            (scale_tril, _from_scale_tril),
            (precision, _from_precision),
            (covariance, _from_covariance),
        )
        if m is not None
    ]
    matrix, function = given[0]
    if not isinstance(matrix, Tensor):
        raise NotPolynomial("a covariance matrix that depends on a latent")
    result, half_log_det = constants.memo(function, (matrix,))
    return result, polynomial(half_log_det)


def _from_scale_tril(factor: Tensor) -> tuple[Tensor, Tensor]:
    factor = factor.double()
    return torch.cholesky_inverse(factor), -factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _from_covariance(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return _from_scale_tril(torch.linalg.cholesky(matrix.double()))


def _from_precision(matrix: Tensor) -> tuple[Tensor, Tensor]:
    factor = torch.linalg.cholesky(matrix.double())
    return matrix.double(), factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
