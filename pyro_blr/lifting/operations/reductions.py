# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Operations that sum or multiply over dims."""

from math import prod
from typing import Any

from .. import constants, host
from ..polynomial import Polynomial
from ..terms import NotPolynomial
from .indexing import diagonal_of, select
from .register import operation
from .shape import flatten, unsqueeze

#: The most factors that a product over a dim is spelled out for: a Gaussian's closed moments end
#: there, and the number of terms grows with the power.
FACTORS = 4


def dims_of(value: Polynomial, dim: Any) -> tuple[int, ...]:
    """The dims that a reduction runs over: all where none is named."""
    if dim is None or (isinstance(dim, list | tuple) and not dim):
        return tuple(range(value.ndim))
    return (dim,) if isinstance(dim, int) else tuple(dim)


@operation("sum")
def sum_(
    value: Polynomial, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Polynomial:
    """The sum over some dims, or over all: their axes are dropped from the result."""
    return value.sum(dims_of(value, dim), keepdim) if value.ndim else value


@operation("mean")
def mean(
    value: Polynomial, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Polynomial:
    """The sum over some dims, or over all, divided by the number of elements summed."""
    total = sum_(value, dim, keepdim)
    if not value.shape.numel():
        raise NotPolynomial("`mean` of no elements")
    return total * (prod(total.shape) / prod(value.shape))


@operation("nansum")
def nansum(
    value: Polynomial, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Polynomial:
    """The sum, of values without NaN."""
    return sum_(_without_nan(value, "nansum"), dim, keepdim)


@operation("nanmean")
def nanmean(
    value: Polynomial, dim: Any = None, keepdim: bool = False, dtype: Any = None
) -> Polynomial:
    """The mean, of values without NaN."""
    return mean(_without_nan(value, "nanmean"), dim, keepdim)


def _without_nan(value: Polynomial, name: str) -> Polynomial:
    for term in value.terms:
        for constant in term.constants:
            if constants.memo(_has_nan, (constant.tensor,)):
                raise NotPolynomial(f"`{name}` of constants with NaN")
    return value


def _has_nan(tensor: Any) -> bool:
    return host.truth(tensor.isnan().any())


@operation("var")
def var(
    value: Polynomial,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Polynomial:
    """The variance of a sample: ``(sum x^2 - (sum x)^2 / n) / (n - correction)``."""
    if isinstance(dim, bool):  # var(unbiased)
        dim, unbiased = None, dim
    dims = dims_of(value, dim)
    count = prod(value.shape[d] for d in dims)
    if correction is None:
        correction = 0 if unbiased is False else 1
    if count <= correction:
        raise NotPolynomial(f"`var` of {count} elements with correction {correction:g}")
    total = sum_(value, dims, keepdim)
    centred = sum_(value * value, dims, keepdim) - total * total * (1 / count)
    return centred * (1 / (count - correction))


@operation("var_mean")
def var_mean(
    value: Polynomial,
    dim: Any = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> tuple[Polynomial, Polynomial]:
    """The variance of a sample, as `var`, and its mean."""
    own = None if isinstance(dim, bool) else dim
    return var(value, dim, unbiased, keepdim, correction=correction), mean(value, own, keepdim)


@operation("prod")
def prod_(
    value: Polynomial, dim: int | None = None, keepdim: bool = False, dtype: Any = None
) -> Polynomial:
    """The product over a dim, or over all, of at most four elements."""
    if dim is None:
        value, dim = flatten(value), 0
    if value.ndim == 0:
        return value
    if value.shape[dim] > FACTORS:
        raise NotPolynomial(f"`prod` of more than {FACTORS} elements")
    result = select(value, dim, 0)
    for i in range(1, value.shape[dim]):
        result = result * select(value, dim, i)
    return unsqueeze(result, dim % value.ndim) if keepdim else result


@operation("trace")
def trace(value: Polynomial) -> Polynomial:
    """The sum of a matrix's diagonal."""
    return diagonal_of(value, 0, 1).sum((-1,))
