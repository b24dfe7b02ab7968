# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Elementwise operations that keep a polynomial."""

from typing import Any

import torch
from torch import Tensor

from .. import constants
from ..polynomial import NotPolynomial, Numeric, Polynomial, polynomial
from .register import operation


@operation("add", "__add__", "__radd__")
def add(left: Numeric, right: Numeric, *, alpha: float = 1) -> Polynomial:
    return polynomial(left) + polynomial(right) * alpha


@operation("sub", "subtract", "__sub__")
def sub(left: Numeric, right: Numeric, *, alpha: float = 1) -> Polynomial:
    return polynomial(left) - polynomial(right) * alpha


@operation("rsub", "__rsub__")
def rsub(left: Numeric, right: Numeric, *, alpha: float = 1) -> Polynomial:
    return polynomial(right) - polynomial(left) * alpha


@operation("mul", "multiply", "__mul__", "__rmul__")
def mul(left: Numeric, right: Numeric) -> Polynomial:
    return polynomial(left) * right


@operation("div", "true_divide", "divide", "__truediv__", "__div__")
def div(left: Numeric, right: Numeric, *, rounding_mode: str | None = None) -> Polynomial:
    if rounding_mode is not None:
        raise NotPolynomial(f"division rounded by {rounding_mode}")
    return polynomial(left) / right


@operation("__rtruediv__", "__rdiv__")
def rdiv(right: Numeric, left: Numeric) -> Polynomial:
    return polynomial(left) / right


@operation("reciprocal")
def reciprocal(value: Polynomial) -> Polynomial:
    return value**-1.0


@operation("neg", "negative", "__neg__")
def neg(value: Polynomial) -> Polynomial:
    return -value


@operation("positive", "__pos__")
def positive(value: Polynomial) -> Polynomial:
    return value


@operation("square")
def square(value: Polynomial) -> Polynomial:
    return value**2


@operation("sqrt")
def sqrt(value: Polynomial) -> Polynomial:
    return value**0.5


@operation("rsqrt")
def rsqrt(value: Polynomial) -> Polynomial:
    return value**-0.5


@operation("pow", "float_power", "__pow__")
def power(base: Numeric, exponent: Numeric) -> Polynomial:
    number = _number(exponent)
    if number is None:
        raise NotPolynomial("a power that is not a number")
    return polynomial(base) ** number


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
    return value.log()


@operation("log1p")
def log1p(value: Polynomial) -> Polynomial:
    return (1.0 + value).log()


@operation("exp")
def exp(value: Polynomial) -> Polynomial:
    return value.exp()


@operation("lerp")
def lerp(start: Numeric, end: Numeric, weight: Numeric) -> Polynomial:
    return polynomial(start) * (1 - polynomial(weight)) + polynomial(end) * weight


@operation("addcmul")
def addcmul(value: Numeric, left: Numeric, right: Numeric, *, alpha: float = 1) -> Polynomial:
    return polynomial(value) + polynomial(left) * right * alpha


@operation("xlogy")
def xlogy(left: Numeric, right: Numeric) -> Polynomial:
    return polynomial(left) * polynomial(right).log()


@operation("where")
def where(condition: Any, left: Numeric, right: Numeric) -> Polynomial:
    if not isinstance(condition, Tensor):
        raise NotPolynomial("torch.where on a condition that depends on a latent")
    chosen = polynomial(constants.memo(_as_float, (condition,)))
    return polynomial(left) * chosen + polynomial(right) * (1.0 - chosen)


@operation("masked_fill")
def masked_fill(value: Polynomial, mask: Any, fill: Numeric) -> Polynomial:
    if not isinstance(mask, Tensor):
        raise NotPolynomial("masked_fill on a mask that depends on a latent")
    return where(mask, fill, value)


def _as_float(condition: Tensor) -> Tensor:
    return condition.double()


@operation("clone", "contiguous", "double", "float", "half", "bfloat16", "to", "type", "type_as")
@operation("cpu", "cuda", "alias", "requires_grad_", "as_tensor", "nan_to_num_", "expand_copy")
def identity(value: Polynomial, *_: Any, **__: Any) -> Polynomial:
    return value


@operation("zeros_like", "new_zeros")
def zeros_like(value: Polynomial, *_: Any, **__: Any) -> Polynomial:
    return value * 0.0


@operation("ones_like")
def ones_like(value: Polynomial, *_: Any, **__: Any) -> Polynomial:
    return value * 0.0 + 1.0


@operation("full_like")
def full_like(value: Polynomial, fill_value: float, *_: Any, **__: Any) -> Polynomial:
    return value * 0.0 + fill_value


@operation("detach")
def detach(value: Polynomial) -> Polynomial:
    # A latent's value carries no gradient of its own: q is differentiated, not the draw.
    raise NotPolynomial("`detach` of a latent")


@operation("broadcast_tensors")
def broadcast_tensors(*values: Any) -> tuple[Polynomial, ...]:
    if len(values) == 1 and isinstance(values[0], list | tuple):
        values = tuple(values[0])
    shape = torch.broadcast_shapes(*(v.shape for v in values))
    return tuple(polynomial(v).expand_to(shape) for v in values)
