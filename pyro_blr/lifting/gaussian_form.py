# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Gaussian vectors by mean, precision and log determinant, lifted where their arguments are."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import constants, host
from .densities import density_of
from .distribution import LiftedDistribution
from .matrices import precision_of
from .polynomial import Polynomial
from .tensor import Call, LiftedTensor, polynomial_of
from .terms import NotPolynomial

_FORMS = ("scale_tril", "precision_matrix", "covariance_matrix")


@dataclass(frozen=True, eq=False)
class GaussianForm:
    """``log p(x) = half_log_det - (x - loc)' P (x - loc) / 2``, and a constant.

    :param loc: None for zeros. # shape: (*batch, D)
    :param precision: P, or its diagonal alone. # shape: (*batch, D, D) or (*batch, D)
    :param half_log_det: half of log|P|. # shape: (*batch)
    """

    loc: Any
    precision: Any
    half_log_det: Any
    is_diagonal: bool

    @property
    def matrix(self) -> Any:
        """P as a matrix. # shape: (*batch, D, D)"""
        return torch.diag_embed(self.precision) if self.is_diagonal else self.precision

    def weighed(self, rows: Any) -> Any:
        """Rows times P. # shape: (*batch, N, D)"""
        if self.is_diagonal:
            return rows * self.precision.unsqueeze(-2)
        return rows @ self.precision

    def along(self, rows: Any) -> Any:
        """Rows times the mean. # shape: (*batch, N)"""
        return (rows * self.loc.unsqueeze(-2)).sum(-1)


def gaussian_form(fn: Any) -> GaussianForm:
    """The form of a MultivariateNormal, or of Normals that are one event.

    :raises NotPolynomial: of any other distribution, and of a matrix without an inverse here.
    """
    if isinstance(fn, LiftedDistribution):
        kind, given, dims = fn.distribution, fn.arguments, fn.reinterpreted
        if fn.masks:
            raise NotPolynomial("a part of a vector that is masked")
    else:
        base = getattr(fn, "base_dist", fn)
        dims = getattr(fn, "reinterpreted_batch_ndims", 0)
        density = density_of(type(base))
        kind, given = type(base), {} if density is None else density.reads(base)
    if issubclass(kind, torch.distributions.Normal) and dims == 1:
        shape = (*fn.batch_shape, *fn.event_shape)
        return _of_normals(*(_expanded(given.get(n, d), shape) for n, d in _DEFAULTS))
    if issubclass(kind, torch.distributions.MultivariateNormal) and dims == 0:
        name = next(n for n in _FORMS if given.get(n) is not None)
        return _of_vector(given["loc"], name, given[name])
    raise NotPolynomial(f"a {kind.__name__} in the place of a Gaussian vector")


_DEFAULTS = (("loc", 0.0), ("scale", 1.0))


def _expanded(value: Any, shape: tuple[int, ...]) -> Any:
    value = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
    return value.expand(shape)


def _of_normals(loc: Any, scale: Any) -> GaussianForm:
    if isinstance(scale, LiftedTensor):
        precision, half_log_det = scale**-2, -scale.log().sum(-1)
    else:
        precision, half_log_det = constants.memo(_from_scales, (scale,))
    return GaussianForm(_unless_zero(loc), precision, half_log_det, True)


def _from_scales(scale: Tensor) -> tuple[Tensor, Tensor]:
    scale = scale.double()
    return scale**-2, -scale.log().sum(-1)


def _of_vector(loc: Any, name: str, matrix: Any) -> GaussianForm:
    precision, half_log_det = precision_of(name, polynomial_of(matrix))
    if not isinstance(matrix, LiftedTensor):
        known = constants.memo(_precision, (matrix,), name)
        half = constants.memo(_half_log_det, (matrix,), name)
        return GaussianForm(_unless_zero(loc), known, half, False)
    inverse = _recorded(_precision, precision, matrix, name)
    return GaussianForm(
        _unless_zero(loc), inverse, _recorded(_half_log_det, half_log_det, matrix, name), False
    )


def _recorded(
    function: Callable[..., Tensor], poly: Polynomial, matrix: LiftedTensor, name: str
) -> LiftedTensor:
    call = Call(function, (matrix, name), {})
    return LiftedTensor(poly.shape, matrix.dtype, matrix.device, poly=poly, call=call)


def _precision(matrix: Tensor, name: str) -> Tensor:
    """The precision of any of a multivariate normal's matrices."""
    if name == "precision_matrix":
        return matrix.double()
    factor = matrix.double() if name == "scale_tril" else torch.linalg.cholesky(matrix.double())
    return torch.cholesky_inverse(factor)


def _half_log_det(matrix: Tensor, name: str) -> Tensor:
    """Half the log determinant of the precision."""
    factor = matrix.double() if name == "scale_tril" else torch.linalg.cholesky(matrix.double())
    half = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return half if name == "precision_matrix" else -half


def _unless_zero(loc: Any) -> Any:
    """A mean, or None if all of it is 0."""
    if isinstance(loc, LiftedTensor):
        return loc
    loc = double(loc)
    if loc.requires_grad or not host.readable(loc) or not constants.memo(_is_zero, (loc,)):
        return loc
    return None


def _is_zero(tensor: Tensor) -> bool:
    return not host.truth(tensor.any())


def double(value: Any) -> Any:
    """A constant in double precision, the same each time; what is lifted as it is."""
    if isinstance(value, LiftedTensor) or value.dtype == torch.float64:
        return value
    return constants.memo(_double, (value,))


def _double(tensor: Tensor) -> Tensor:
    return tensor.double()
