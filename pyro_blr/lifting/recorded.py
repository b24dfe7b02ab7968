# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities as functions that can be recorded, and replayed at values of what is lifted.

A distribution may hold lifted tensors anywhere: among its arguments, in a base distribution, in a
transform. :func:`lifted_parts` finds them, :func:`realised` gives the distribution with values in
their place.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.distributions.transforms import Transform

from .axes import common_device
from .tensor import Call, LiftedTensor
from .terms import NotPolynomial


class LogDensity:
    """``log p(value)`` of a distribution, as a function of the value and of its lifted tensors.

    :param fn: the distribution.
    :param elementwise: whether each element depends on one element of the value and of each lifted
        tensor.
    """

    __name__ = "log_prob"

    def __init__(self, fn: Any, elementwise: bool) -> None:
        self.fn = fn
        self.lifted = lifted_parts(fn)
        self.elementwise = elementwise

    def of(self, value: Any) -> Call:
        """The recorded call at a value."""
        return Call(self, (value, *self.lifted), {})

    def __call__(self, value: Any, *parts: Tensor) -> Tensor:
        tensors = [t for t in (value, *parts) if isinstance(t, Tensor)]
        wide = bool(self.lifted) and torch.float64 in {t.dtype for t in tensors}
        device = common_device(tensors)

        def changed(constant: Tensor) -> Tensor:
            # Plain numbers are on the host, where some of torch's densities take the value to.
            placed = constant if device.type == "cpu" else constant.to(device)
            return doubled(placed) if wide else placed

        given = [doubled(t) if wide else t for t in (value, *parts)]
        values = {id(t): v for t, v in zip(self.lifted, given[1:], strict=True)}
        is_changed = wide or device.type != "cpu"
        fn = self.fn
        with unchecked():
            if self.lifted or is_changed:
                fn = realised(fn, values, changed if is_changed else None)
            return fn.log_prob(given[0])  # type: ignore[no-any-return]


def density_dtype(like: Tensor) -> torch.dtype:
    """The dtype of a log density by a tensor that it is computed from, which may be a class."""
    return like.dtype if like.dtype.is_floating_point else torch.get_default_dtype()


@contextmanager
def unchecked() -> Iterator[None]:
    """Leave out the checks of values: nodes and draws are q's own, and a check waits for them."""
    default = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(default)


def no_formula(fn: Any) -> NotPolynomial:
    """The reason of a distribution without a formula; ``fn`` is it or its class."""
    name = fn.__name__ if isinstance(fn, type) else type(fn).__name__
    return NotPolynomial(f"the log density of `{name}` has no formula in the statistics of q")


def lifted_parts(root: Any) -> tuple[LiftedTensor, ...]:
    """Every lifted tensor that a distribution, a transform or a container holds, each once."""
    found: dict[int, LiftedTensor] = {}
    seen: set[int] = set()
    stack = [root]
    while stack:
        item = stack.pop()
        if isinstance(item, LiftedTensor):
            found.setdefault(id(item), item)
        elif id(item) not in seen and (inside := _inside(item)):
            seen.add(id(item))
            stack.extend(i for i in reversed(inside) if type(i) not in _LEAVES)
    return tuple(found.values())


#: What holds no lifted tensor and is met most often.
_LEAVES = frozenset({Tensor, torch.Size, int, float, bool, str, type(None)})


def _inside(item: Any) -> list[Any]:
    if isinstance(item, Distribution | Transform):
        return list(vars(item).values())
    if isinstance(item, list | tuple):
        return list(item)
    return list(item.values()) if isinstance(item, Mapping) else []


def realised(
    item: Any,
    values: Mapping[int, Tensor],
    changed: Callable[[Tensor], Tensor] | None = None,
    done: dict[int, Any] | None = None,
) -> Any:
    """A copy with values in the place of lifted tensors; what holds none is not copied.

    :param values: by the ``id`` of the lifted tensors.
    :param changed: what becomes of constants: float64, since some of torch's densities return their
        narrowest argument's dtype, or on a device.
    """
    done = {} if done is None else done
    if isinstance(item, LiftedTensor):
        return values[id(item)]
    if isinstance(item, Tensor):
        return item if changed is None else changed(item)
    if isinstance(item, list | tuple) and not isinstance(item, torch.Size):
        return type(item)(realised(i, values, changed, done) for i in item)
    if isinstance(item, dict):
        return {k: realised(v, values, changed, done) for k, v in item.items()}
    if not isinstance(item, Distribution | Transform):
        return item
    if id(item) in done:
        return done[id(item)]
    if changed is None and not lifted_parts(item):
        return item
    build = getattr(item, "built", None)
    if build is not None:
        done[id(item)] = build(lambda inner: realised(inner, values, changed, done))
        return done[id(item)]
    copy = object.__new__(type(item))
    done[id(item)] = copy
    copy.__dict__.update({k: realised(v, values, changed, done) for k, v in vars(item).items()})
    return copy


def doubled(value: Any) -> Any:
    """Floating numbers in float64, anything else as it is."""
    floating = isinstance(value, Tensor) and value.dtype.is_floating_point
    return value.double() if floating else value
