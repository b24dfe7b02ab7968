# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Functions of constants inside log densities: computed once, in float64, never of a latent."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ...shapes import broadcast_shapes
from .. import constants
from ..axes import Axis
from ..polynomial import Numeric, Polynomial, polynomial
from ..terms import NotPolynomial


def as_tensor(value: Any) -> Tensor:
    """A number as a tensor; a tensor stays on its device (``torch.as_tensor`` may move it)."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.float64, device="cpu")


def of_constant(function: Callable[..., Tensor], *values: Numeric) -> Polynomial:
    """A function of constants, computed once.

    :param function: from tensors to a tensor; a named function, by which the result is known again.
    :param values: its arguments.
    :raises NotPolynomial: if one of them is a latent; the function's name says what was asked for.
    """
    if any(isinstance(v, Polynomial) for v in values):
        raise NotPolynomial(f"`{function.__name__.strip('_')}` of a latent")
    return polynomial(constants.memo(function, tuple(as_tensor(v) for v in values)))


def number_of(value: Numeric, what: str) -> float:
    """A constant that is one number, whatever its shape.

    :raises NotPolynomial: if it is a latent or has several values; the message is ``what``.
    """
    terms = polynomial(value).terms
    if not terms:
        return 0.0
    if len(terms) > 1 or terms[0].constants or not terms[0].is_constant:
        raise NotPolynomial(what)
    return terms[0].number


def lgamma(value: Tensor) -> Tensor:
    """``log Gamma(value)``."""
    return torch.lgamma(value.double())


def log_factorial(value: Tensor) -> Tensor:
    """``log(value!)``."""
    return torch.lgamma(value.double() + 1)


def lgamma_of_sum(first: Tensor, second: Tensor) -> Tensor:
    """``log Gamma(first + second)``."""
    return torch.lgamma(first.double() + second.double())


def log_choose(total: Tensor, chosen: Tensor) -> Tensor:
    """The logarithm of the binomial coefficient."""
    return log_factorial(total) - log_factorial(chosen) - log_factorial(total - chosen)


def broadcast_dims(*values: Polynomial) -> tuple[Axis | None, ...]:
    """New axes for the shape that some polynomials broadcast to."""
    shape = broadcast_shapes(*(v.shape for v in values))
    return tuple(Axis(s) if s != 1 else None for s in shape)


def log_complement(value: Numeric) -> Polynomial:
    """``log(1 - value)``: of a constant, or of a polynomial whose complement has a logarithm."""
    if isinstance(value, Polynomial):
        return value.log_complement()
    return of_constant(_log1m, value)


def _log1m(value: Tensor) -> Tensor:
    return (-value.double()).log1p()
