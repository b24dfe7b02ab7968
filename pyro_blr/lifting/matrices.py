# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Precision matrices of multivariate normals, constant or lifted, and their log determinants.

A lifted covariance, precision or Cholesky factor has an inverse and a determinant in the algebra if
it is a scalar times one of three matrices: a constant one, a diagonal one, or a Wishart latent
(which only a precision can be).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import errors
from . import constants, host
from .axes import Axis, all_axes, take
from .contraction import contract
from .polynomial import Numeric, Polynomial, polynomial
from .terms import Atom, Constant, NotPolynomial, Term

#: What a precision is of the matrix that is given, and of the log determinant of the given one.
_POWERS = {"covariance_matrix": -1.0, "precision_matrix": 1.0, "scale_tril": -2.0}


def precision_of(name: str, matrix: Numeric) -> tuple[Polynomial, Polynomial]:
    """The precision matrix, and half its log determinant along the batch dims.

    :param name: which of a multivariate normal's three arguments the matrix is.
    :raises NotPolynomial: if the matrix depends on latents in another way.
    """
    if isinstance(matrix, Polynomial) and not matrix.is_constant:
        return _lifted_precision(name, matrix)
    if not isinstance(matrix, Tensor):
        raise NotPolynomial("a covariance matrix computed from latents that cancel")
    result, half_log_det = _factorised(name, matrix)
    return polynomial(result), polynomial(half_log_det)


def _from_scale_tril(factor: Tensor) -> tuple[Tensor, Tensor]:
    factor = factor.double()
    return torch.cholesky_inverse(factor), -factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _from_covariance(matrix: Tensor) -> tuple[Tensor, Tensor]:
    return _from_scale_tril(torch.linalg.cholesky(matrix.double()))


def _from_precision(matrix: Tensor) -> tuple[Tensor, Tensor]:
    factor = torch.linalg.cholesky(matrix.double())
    return matrix.double(), factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


_FUNCTIONS = {
    "covariance_matrix": _from_covariance,
    "precision_matrix": _from_precision,
    "scale_tril": _from_scale_tril,
}


def _factorised(name: str, matrix: Tensor) -> tuple[Tensor, Tensor]:
    """The precision and half its log determinant of a constant matrix, computed once.

    :raises ParameterError: if the matrix is not positive definite.
    """
    try:
        result: tuple[Tensor, Tensor] = constants.memo(_FUNCTIONS[name], (matrix,))
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise errors.ParameterError(
            f"the {name} of a multivariate normal is not positive definite in float64: "
            f"{error} Mend: give a matrix whose eigenvalues are positive; of directions without "
            "variance, leave one out."
        ) from error
    return result


def _lifted_precision(name: str, matrix: Polynomial) -> tuple[Polynomial, Polynomial]:
    size = matrix.shape[-1]
    if size != matrix.shape[-2]:
        raise ValueError(f"a matrix of shape {tuple(matrix.shape)} is not square")
    batch = matrix.dims[:-2]
    power = _POWERS[name]
    if size == 1:
        scalar = matrix.with_dims(batch)
        return matrix**power, scalar.log() * (0.5 * power)
    parts = _split(matrix)
    scale = Polynomial(batch, (parts.scalar,))
    log_scale = scale.log() * (0.5 * power * size)
    if parts.wishart is not None:
        if name != "precision_matrix":
            raise NotPolynomial(
                f"`{name}` of a latent on the positive definite matrices; use it as the "
                "precision_matrix, under a Wishart prior,"
            )
        atom = parts.wishart
        own = Atom(atom.site, "logdet", 1, atom.where[:-2])
        return matrix, log_scale + Polynomial(batch, (Term(0.5, (), (own,)),))
    unscaled: Polynomial = (scale**power).with_dims((*batch, None, None))
    if parts.diagonal is not None:
        diagonal = Polynomial((*batch, matrix.dims[-2]), (parts.diagonal,))
        inverse = diagonal**power
        eye = polynomial(_eye(size))
        full = inverse.with_dims((*inverse.dims, None)) * eye
        return full * unscaled, log_scale + diagonal.log().sum((-1,)) * (0.5 * power)
    tensor, axes = parts.constant
    value, half_log_det = _factorised(name, tensor)
    inverse = Polynomial((*batch, *matrix.dims[-2:]), (Term(1.0, (Constant(value, axes),), ()),))
    log_det = Polynomial(batch, (Term(1.0, (Constant(half_log_det, axes[:-2]),), ()),))
    return inverse * unscaled, log_scale + log_det


@dataclass(frozen=True, eq=False)
class _Parts:
    """A scalar, times a constant matrix, a diagonal one, or a latent one."""

    scalar: Term
    constant: Any = None
    diagonal: Term | None = None
    wishart: Atom | None = None


def _split(matrix: Polynomial) -> _Parts:
    if len(matrix.terms) != 1:
        raise NotPolynomial("the inverse of a covariance matrix that is a sum over latents")
    (term,) = matrix.terms
    row, column = matrix.dims[-2:]
    if row is None or column is None or not set(term.axes) <= set(matrix.out):
        raise NotPolynomial("the inverse of a covariance matrix that is a contraction")
    inside, scalar = _touching(term, row, column)
    if len(inside.atoms) == 1 and not inside.constants and not inside.exponentials:
        (atom,) = inside.atoms
        if atom.site.event_dim == 2 and atom.power == 1 and set(atom.where[-2:]) == {row, column}:
            return _Parts(scalar, wishart=atom)
    both = [c for c in inside.constants if {row, column} <= set(all_axes(c.where))]
    if not inside.atoms and not inside.exponentials and both:
        return _Parts(scalar, constant=_constant_matrix(inside, matrix))
    if len(both) == 1 and both[0].where == (row, column) and _is_diagonal(both[0].tensor):
        diagonal = constants.memo(_diagonal, (both[0].tensor,))
        rest = tuple(c for c in inside.constants if c is not both[0])
        kept = Term(1.0, rest, inside.atoms, inside.exponentials).renamed({column: row})
        return _Parts(scalar, diagonal=kept.times(Term(1.0, (Constant(diagonal, (row,)),), ())))
    raise NotPolynomial("the inverse of a covariance matrix whose entries are latents")


def _touching(term: Term, row: Axis, column: Axis) -> tuple[Term, Term]:
    """The factors that run along the matrix, and those that do not, with the number."""

    def runs(factor: Any) -> bool:
        return bool({row, column} & set(all_axes(factor.where)))

    inside, outside = (
        Term(
            number,
            tuple(c for c in term.constants if runs(c) is which),
            tuple(a for a in term.atoms if runs(a) is which),
            tuple(e for e in term.exponentials if runs(e) is which),
        )
        for which, number in ((True, 1.0), (False, term.number))
    )
    return inside, outside


def _constant_matrix(inside: Term, matrix: Polynomial) -> tuple[Tensor, tuple[Axis, ...]]:
    """The constant part as one tensor, its two matrix axes last."""
    operands = [take(c.tensor, c.where) for c in inside.constants]
    present = {a for _, axes in operands for a in axes}
    axes = tuple(a for a in matrix.out if a in present)
    return contract(operands, axes), axes


def _is_diagonal(tensor: Tensor) -> bool:
    return bool(constants.memo(_has_zeros_off_diagonal, (tensor,)))


def _has_zeros_off_diagonal(tensor: Tensor) -> bool:
    return host.readable(tensor) and host.truth((tensor == tensor.diagonal().diag()).all())


def _diagonal(tensor: Tensor) -> Tensor:
    return tensor.diagonal().contiguous()


def _eye(size: int) -> Tensor:
    return torch.eye(size, dtype=torch.float64, device="cpu")
