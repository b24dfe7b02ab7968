# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Elementwise operations that keep a polynomial."""

import math
from typing import Any

import torch
from torch import Tensor

from ...shapes import broadcast_shapes
from .. import constants, host
from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial
from ..weighted_log import times_log
from .register import operation


@operation("add", "__add__", "__radd__")
def add(left: Numeric, right: Numeric, *, alpha: float = 1) -> Polynomial:
    """The sum, ``left + alpha right``."""
    return polynomial(left) + polynomial(right) * alpha


@operation("sub", "subtract", "__sub__")
def sub(left: Numeric, right: Numeric, *, alpha: float = 1) -> Polynomial:
    """The difference, ``left - alpha right``."""
    return polynomial(left) - polynomial(right) * alpha


@operation("rsub", "__rsub__")
def rsub(left: Numeric, right: Numeric, *, alpha: float = 1) -> Polynomial:
    """The difference the other way round, ``right - alpha left``."""
    return polynomial(right) - polynomial(left) * alpha


@operation("mul", "multiply", "__mul__", "__rmul__")
def mul(left: Numeric, right: Numeric) -> Polynomial:
    """The product, element by element."""
    return polynomial(left) * right


@operation("div", "true_divide", "divide", "__truediv__", "__div__")
def div(left: Numeric, right: Numeric, *, rounding_mode: str | None = None) -> Polynomial:
    """The quotient; the divisor must have a reciprocal (:func:`reciprocal`)."""
    if rounding_mode is not None:
        raise NotPolynomial(f"`div` rounded by {rounding_mode}")
    return polynomial(left) / right


@operation("__rtruediv__", "__rdiv__")
def rdiv(right: Numeric, left: Numeric) -> Polynomial:
    """The quotient of a plain left operand and a lifted right one."""
    return polynomial(left) / right


@operation("reciprocal")
def reciprocal(value: Polynomial) -> Polynomial:
    """``1 / value``, of a constant or of a single product of powers."""
    return value**-1.0


@operation("neg", "negative", "__neg__")
def neg(value: Polynomial) -> Polynomial:
    """The negative."""
    return -value


@operation("positive", "__pos__")
def positive(value: Polynomial) -> Polynomial:
    """The value itself."""
    return value


@operation("square")
def square(value: Polynomial) -> Polynomial:
    """The square: a sum of products for a sum."""
    return value**2


@operation("sqrt")
def sqrt(value: Polynomial) -> Polynomial:
    """The square root, of a constant or of a single product of powers."""
    return value**0.5


@operation("rsqrt")
def rsqrt(value: Polynomial) -> Polynomial:
    """The reciprocal square root, as :func:`sqrt`."""
    return value**-0.5


@operation("pow", "float_power", "__pow__")
def power(base: Numeric, exponent: Numeric) -> Polynomial:
    """A power by a number: a product of up to four sums, or each factor's power."""
    number = _number(exponent)
    if number is None:
        return _power_of_number(base, exponent)
    value = polynomial(base)
    try:
        return value**number
    except NotPolynomial:
        if number != 4:
            raise
    squared = value**2
    return squared * squared


@operation("__rpow__")
def rpow(exponent: Numeric, base: Numeric) -> Polynomial:
    """A power of a plain base: the exponential of a multiple."""
    return power(base, exponent)


def _power_of_number(base: Numeric, exponent: Numeric) -> Polynomial:
    number = _number(base)
    if number is None or number <= 0:
        raise NotPolynomial("`pow` where neither base nor exponent is a positive number")
    return (polynomial(exponent) * math.log(number)).exp()


@operation("exp2", "special_exp2")
def exp2(value: Polynomial) -> Polynomial:
    """``2 ** value``, as :func:`exp`."""
    return (value * math.log(2)).exp()


@operation("ldexp")
def ldexp(value: Numeric, right: Numeric) -> Polynomial:
    """``value 2 ** right``."""
    if isinstance(right, Tensor):
        scale: Tensor = constants.memo(_exp2, (right,))
        return polynomial(value) * scale
    return polynomial(value) * exp2(polynomial(right))


def _exp2(value: Tensor) -> Tensor:
    return value.double().exp2()


def _number(value: Numeric) -> float | None:
    if isinstance(value, Polynomial):
        if value.out or len(value.terms) > 1 or not value.is_constant:
            return None
        if not value.terms:
            return 0.0
        return value.terms[0].number if not value.terms[0].constants else None
    if isinstance(value, Tensor):
        return _number(polynomial(value))
    return float(value)


@operation("log")
def log(value: Polynomial) -> Polynomial:
    """The logarithm of a single product: the sum of its factors' logarithms."""
    return value.log()


@operation("log2")
def log2(value: Polynomial) -> Polynomial:
    """The logarithm to base 2, as :func:`log`."""
    return value.log() * (1 / math.log(2))


@operation("log10")
def log10(value: Polynomial) -> Polynomial:
    """The logarithm to base 10, as :func:`log`."""
    return value.log() * (1 / math.log(10))


@operation("log1p", "special_log1p")
def log1p(value: Polynomial) -> Polynomial:
    """``log(1 + value)``, where ``1 + value`` has a logarithm."""
    return (1.0 + value).log()


@operation("exp")
def exp(value: Polynomial) -> Polynomial:
    """The exponential of a sum: the product of its terms' exponentials."""
    return value.exp()


@operation("expm1", "special_expm1")
def expm1(value: Polynomial) -> Polynomial:
    """``exp(value) - 1``, as :func:`exp`."""
    return value.exp() - 1.0


@operation("lerp")
def lerp(start: Numeric, end: Numeric, weight: Numeric) -> Polynomial:
    """``start (1 - weight) + end weight``."""
    return polynomial(start) * (1 - polynomial(weight)) + polynomial(end) * weight


@operation("addcmul")
def addcmul(start: Numeric, left: Numeric, right: Numeric, *, value: float = 1) -> Polynomial:
    """``start + value left right``."""
    return polynomial(start) + polynomial(left) * right * value


@operation("addcdiv")
def addcdiv(start: Numeric, left: Numeric, right: Numeric, *, value: float = 1) -> Polynomial:
    """``start + value left / right``, where `right` has a reciprocal."""
    return polynomial(start) + polynomial(left) / right * value


@operation("xlogy", "special_xlogy")
def xlogy(left: Numeric, right: Numeric) -> Polynomial:
    """``left log(right)``."""
    return times_log(left, right)


@operation("xlog1py", "special_xlog1py")
def xlog1py(left: Numeric, right: Numeric) -> Polynomial:
    """``left log(1 + right)``, where ``1 + right`` has a logarithm."""
    return polynomial(left) * (1.0 + polynomial(right)).log()


@operation("where")
def where(condition: Any, left: Any, right: Numeric) -> Polynomial:
    """A choice by a constant condition: each side times its 0-1 table."""
    if isinstance(left, Tensor) and left.dtype == torch.bool:  # value.where(condition, other)
        condition, left = left, condition
    if not isinstance(condition, Tensor):
        raise NotPolynomial("`where` on a condition that depends on a latent")
    return _chosen(condition, left, True) + _chosen(condition, right, False)


def _chosen(condition: Tensor, value: Numeric, side: bool) -> Polynomial:
    """A value where a condition says so, and 0 elsewhere."""
    if not isinstance(value, Polynomial):
        given = value if isinstance(value, Tensor) else torch.tensor(float(value), device="cpu")
        if not given.requires_grad and not constants.memo(_is_finite, (given,)):
            return polynomial(constants.memo(_kept, (condition, given), side))  # inf * 0 is NaN
    return polynomial(value) * polynomial(constants.memo(_is, (condition,), side))


def _is_finite(value: Tensor) -> bool:
    return not host.readable(value) or host.truth(value.isfinite().all())


def _kept(condition: Tensor, value: Tensor, side: bool) -> Tensor:
    return torch.where(condition == side, value.to(condition.device).double(), 0.0)


@operation("masked_fill")
def masked_fill(start: Numeric, mask: Any, value: Numeric) -> Polynomial:
    """A choice by a constant mask, as :func:`where`."""
    if not isinstance(mask, Tensor):
        raise NotPolynomial("`masked_fill` on a mask that depends on a latent")
    return where(mask, value, start)


def _is(condition: Tensor, side: bool) -> Tensor:
    return (condition == side).double()


@operation("clone", "contiguous", "double", "float", "half", "bfloat16", "to", "type", "type_as")
@operation("cpu", "cuda", "alias", "as_tensor", "alias_copy")
def identity(value: Polynomial, *_: Any, **__: Any) -> Polynomial:
    """Changes of dtype, device or memory layout: the algebra knows none of them."""
    return value


@operation("long", "int", "short")
def to_integers(value: Polynomial) -> Polynomial:
    """The values of a discrete latent as integers; any other would be rounded."""
    if not value.is_integral:
        raise NotPolynomial("a number rounded to an integer")
    return value


@operation("zeros_like")
def zeros_like(value: Polynomial, *_: Any, **__: Any) -> Polynomial:
    """Zeros of the value's shape."""
    return value * 0.0


@operation("ones_like")
def ones_like(value: Polynomial, *_: Any, **__: Any) -> Polynomial:
    """Ones of the value's shape."""
    return value * 0.0 + 1.0


@operation("full_like")
def full_like(value: Polynomial, fill_value: float, *_: Any, **__: Any) -> Polynomial:
    """One number in the value's shape."""
    return value * 0.0 + fill_value


@operation("detach")
def detach(value: Polynomial) -> Polynomial:
    """Refused: the gradient of a latent's value is q's, and would be lost."""
    # A latent's value carries no gradient of its own: q is differentiated, not the draw.
    raise NotPolynomial("`detach` of a latent")


@operation("broadcast_tensors")
def broadcast_tensors(*values: Any) -> tuple[Polynomial, ...]:
    """The values, broadcast against each other."""
    if len(values) == 1 and isinstance(values[0], list | tuple):
        values = tuple(values[0])
    shape = broadcast_shapes(*(v.shape for v in values))
    return tuple(polynomial(v).expand_to(shape) for v in values)
