# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Changes of variables with lifted values, or with lifted parameters of the transform.

Torch's own transforms run on lifted tensors; the few rules here keep polynomials where their code
would leave them (``abs`` of a scale that is positive), take parts of composed transforms apart, and
compute what depends on data alone once.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor
from torch.distributions import transforms
from torch.distributions.transforms import Transform

from ..errors import ControlFlowError
from ..shapes import broadcast_shapes
from . import constants, host
from .polynomial import Polynomial
from .recorded import lifted_parts
from .tensor import Call, LiftedTensor, last_refusal
from .terms import Atom


def sum_rightmost(value: Any, dims: int) -> Any:
    """Sum over the last dims."""
    return value.sum(tuple(range(-dims, 0))) if dims > 0 else value


def forward(transform: Transform, x: Any) -> Any:
    """``y = transform(x)``; a transform that needs values is recorded as one call."""
    if not isinstance(x, LiftedTensor):
        return transform(x) if lifted_parts(transform) else _once(_forward, transform, x)
    shape = transform.forward_shape(x.shape)
    return _recorded(lambda: transform(x), _Forward(transform), (x,), shape)


def inverse(transform: Transform, y: Any) -> Any:
    """``x`` with ``transform(x) = y``.

    :raises ControlFlowError: if the transform needs values.
    """
    if not isinstance(y, LiftedTensor) and not lifted_parts(transform):
        return _once(_inverse, transform, y)
    if isinstance(transform, transforms._InverseTransform):
        return forward(transform.inv, y)
    if isinstance(transform, transforms.ComposeTransform):
        for part in reversed(transform.parts):
            y = inverse(part, y)
        return y
    if isinstance(transform, transforms.IndependentTransform):
        return inverse(transform.base_transform, y)
    return transform.inv(y)


def log_jacobian(transform: Transform, x: Any, y: Any) -> Any:
    """``log |dy / dx|`` along the dims in front of the transform's event dims."""
    lifted = lifted_parts((x, y, transform))
    if not lifted:
        return _once(_log_jacobian, transform, x, y)
    if lifted_parts(transform):
        return _log_jacobian_rule(transform, x, y)
    shape = torch.Size(x.shape[: len(x.shape) - transform.domain.event_dim])
    return _recorded(
        lambda: _log_jacobian_rule(transform, x, y), _LogJacobian(transform), (x, y), shape
    )


def _log_jacobian_rule(transform: Transform, x: Any, y: Any) -> Any:
    if isinstance(transform, transforms._InverseTransform):
        return -log_jacobian(transform.inv, y, x)
    if isinstance(transform, transforms.ComposeTransform):
        return _composed_log_jacobian(transform, x, y)
    if isinstance(transform, transforms.IndependentTransform):
        inner = log_jacobian(transform.base_transform, x, y)
        return sum_rightmost(inner, transform.reinterpreted_batch_ndims)
    if isinstance(transform, transforms.AffineTransform):
        level = log_abs(transform.scale)
        shape = broadcast_shapes(x.shape, level.shape)
        return sum_rightmost(level.expand(shape), transform.event_dim)
    if isinstance(transform, transforms.PowerTransform) and not lifted_parts(transform):
        exponent = transform.exponent
        return x.log() * (exponent - 1) + log_abs(exponent)
    return transform.log_abs_det_jacobian(x, y)


def _composed_log_jacobian(transform: Any, x: Any, y: Any) -> Any:
    points = [y]
    for part in reversed(transform.parts[1:]):
        points.append(inverse(part, points[-1]))
    points.append(x)
    points.reverse()
    total: Any = 0.0
    event_dim = transform.domain.event_dim
    for part, before, after in zip(transform.parts, points[:-1], points[1:], strict=True):
        own = log_jacobian(part, before, after)
        total = total + sum_rightmost(own, event_dim - part.domain.event_dim)
        event_dim += part.codomain.event_dim - part.domain.event_dim
    return total


def log_abs(scale: Any) -> Any:
    """``log |scale|``; of a product that is positive whatever the latents are, without ``abs``."""
    if isinstance(scale, LiftedTensor):
        positive = scale.poly is not None and is_positive(scale.poly)
        return scale.log() if positive else scale.abs().log()
    if isinstance(scale, Tensor):
        return constants.memo(_log_abs, (scale,))
    return torch.tensor(math.log(abs(scale)), dtype=torch.float64)


def _log_abs(scale: Tensor) -> Tensor:
    return scale.abs().log()


def is_positive(value: Polynomial) -> bool:
    """Whether a polynomial is one product of positive factors; exponentials are positive."""
    if len(value.terms) != 1:
        return False
    term = value.terms[0]
    return (
        term.number > 0
        and all(_is_positive_atom(a) for a in term.atoms)
        and all(constants.memo(_all_positive, (c.tensor,)) for c in term.constants)
    )


def _is_positive_atom(atom: Atom) -> bool:
    if atom.kind != "power":
        return False
    if atom.site.gaussian:
        return atom.power % 2 == 0
    return atom.site.event_dim < 2  # an element of a Wishart matrix has either sign


def _all_positive(value: Tensor) -> bool:
    return host.truth((value > 0).all())


# Calls that are recorded as one, where torch's code writes in place or asks for values.


class _OneCall(ABC):
    #: As any function of a whole event; elementwise transforms run on lifted tensors themselves.
    elementwise = False

    def __init__(self, transform: Transform) -> None:
        self.transform = transform

    @abstractmethod
    def __call__(self, *values: Tensor) -> Any: ...


class _Forward(_OneCall):
    __name__ = "transform"

    def __call__(self, *values: Tensor) -> Any:
        return self.transform(*values)


class _LogJacobian(_OneCall):
    __name__ = "log_abs_det_jacobian"

    def __call__(self, *values: Tensor) -> Any:
        return self.transform.log_abs_det_jacobian(*values)


def _recorded(
    run: Callable[[], Any], whole: _OneCall, inputs: tuple[Any, ...], shape: torch.Size
) -> Any:
    """The result of running torch's own code on lifted tensors, or one opaque call."""
    before = last_refusal.get()
    try:
        return run()
    except (ControlFlowError, NotImplementedError) as error:
        if whole.transform.domain.event_dim == 0 and isinstance(error, ControlFlowError):
            raise
        last_refusal.set(before)
    like = next(t for t in inputs if isinstance(t, LiftedTensor))
    reason = f"`{type(whole.transform).__name__}` has no closed-form expectation"
    return LiftedTensor(
        shape, like.dtype, like.device, poly=None, call=Call(whole, inputs, {}), reason=reason
    )


# What depends on constants alone is computed once.


class _Recipe:
    """A function of one transform, equal to that of another transform of the same content."""

    def __init__(self, function: Callable[..., Any], transform: Transform, key: Hashable) -> None:
        self.function, self.transform, self.key = function, transform, (function, key)

    def __call__(self, *values: Tensor) -> Any:
        return self.function(self.transform, *values[: len(values) - self.held])

    held = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Recipe) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


def _forward(transform: Transform, x: Tensor) -> Any:
    return transform(x)


def _inverse(transform: Transform, y: Tensor) -> Any:
    return transform.inv(y)


def _log_jacobian(transform: Transform, x: Tensor, y: Tensor) -> Any:
    return transform.log_abs_det_jacobian(x, y)


def _once(function: Callable[..., Any], transform: Transform, *values: Tensor) -> Any:
    """A function of constants; taken from the cache where the transform is one of torch's."""
    tensors: list[Tensor] = []
    key = _content(transform, tensors)
    if key is None:
        return function(transform, *values)
    recipe = _Recipe(function, transform, key)
    recipe.held = len(tensors)
    return constants.memo(recipe, (*values, *tensors))


def same_transform(first: Transform, second: Transform) -> bool:
    """Whether two transforms of torch or Pyro, without latents, are of the same content."""
    mine: list[Tensor] = []
    theirs: list[Tensor] = []
    key = _content(first, mine)
    if key is None or key != _content(second, theirs) or len(mine) != len(theirs):
        return False
    return all(map(constants.same_tensor, mine, theirs))


_CACHES = ("_inv", "_cached_x_y", "_cache_size")


def _content(item: Any, tensors: list[Tensor]) -> Hashable | None:
    """What a transform of torch or Pyro is made of, its tensors apart; None if it cannot be told.

    A user's own class may read anything (a closure, a random number): it is run at every trace.
    """
    if isinstance(item, Tensor):
        tensors.append(item)
        return "tensor"
    if isinstance(item, int | float | str):
        return item
    if isinstance(item, list | tuple):
        parts = tuple(_content(i, tensors) for i in item)
        return None if None in parts else parts
    if isinstance(item, transforms._InverseTransform):
        inner = _content(item.inv, tensors)
        return None if inner is None else ("inverse", inner)
    if not isinstance(item, Transform) or isinstance(item, torch.nn.Module):
        return None
    if type(item).__module__.partition(".")[0] not in ("torch", "pyro"):
        return None
    kept = {k: v for k, v in vars(item).items() if k not in _CACHES}
    parts = tuple(_content(v, tensors) for v in kept.values())
    return None if None in parts else (type(item), tuple(kept), parts)
