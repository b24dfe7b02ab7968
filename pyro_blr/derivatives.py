# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Functions that autograd knows by their value, their gradient and products with their Hessian.

A sum over parts has no graph that holds all of them, and a maximum over some of the arguments none
at all; but both have these three. Their argument is one flat vector: tensors one after the other.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeAlias, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Key = TypeVar("Key")
#: The shapes of several tensors by name.
Shapes: TypeAlias = Mapping[Key, tuple[torch.Size, ...]]


class TwiceDifferentiable(Protocol):
    """A number that depends on one flat vector."""

    def value_and_gradient(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Both at a point."""

    def times(self, at: Tensor, vector: Tensor) -> Tensor:
        """The Hessian at a point times a vector."""


def applied(function: TwiceDifferentiable, flat: Tensor) -> Tensor:
    """The function at a vector, twice differentiable in it."""
    value: Tensor = _Value.apply(flat, function)  # type: ignore[no-untyped-call]
    return value


class _Value(torch.autograd.Function):
    """The value: its derivative is :class:`_Gradient`."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, function: TwiceDifferentiable) -> Tensor:
        value, gradient = function.value_and_gradient(flat)
        ctx.save_for_backward(flat, gradient)
        ctx.function = function
        return value

    @staticmethod
    def backward(ctx: Any, weight: Tensor) -> tuple[Tensor, None]:
        flat, gradient = ctx.saved_tensors
        own = _Gradient.apply(flat, gradient, ctx.function)  # type: ignore[no-untyped-call]
        return weight * own, None


class _Gradient(torch.autograd.Function):
    """The gradient: its derivative is the Hessian."""

    @staticmethod
    def forward(ctx: Any, flat: Tensor, gradient: Tensor, function: TwiceDifferentiable) -> Tensor:
        ctx.save_for_backward(flat)
        ctx.function = function
        return gradient.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, vector: Tensor) -> tuple[Tensor, None, None]:
        (flat,) = ctx.saved_tensors
        return ctx.function.times(flat, vector), None, None


class Pieces:
    """Tensors cut from a flat one, in turn."""

    def __init__(self, flat: Tensor) -> None:
        self._flat = flat
        self._at = 0

    def of(self, shape: torch.Size) -> Tensor:
        """The next piece, of some shape."""
        size = shape.numel()
        piece = self._flat[self._at : self._at + size].reshape(shape)
        self._at += size
        return piece

    def take(self, like: Tensor) -> Tensor:
        """The next piece, as another tensor is, apart from the others."""
        return self.of(like.shape).to(like).clone()

    def rest(self) -> Tensor:
        """What is left."""
        return self._flat[self._at :]


def flattened(tensors: Iterable[tuple[Tensor, ...]]) -> Tensor:
    """Tensors one after the other. # shape: (n,)"""
    return torch.cat([t.reshape(-1) for own in tensors for t in own])


def shapes_of(tensors: Mapping[Key, tuple[Tensor, ...]]) -> dict[Key, tuple[torch.Size, ...]]:
    """What :func:`cut` asks for to undo :func:`flattened`."""
    return {key: tuple(t.shape for t in own) for key, own in tensors.items()}


def cut(flat: Tensor, shapes: Shapes[Key]) -> dict[Key, tuple[Tensor, ...]]:
    """A flat tensor as those that it was made of."""
    pieces = Pieces(flat)
    return {key: tuple(pieces.of(shape) for shape in own) for key, own in shapes.items()}
