# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A site's distribution without its wrappers, and without the rows that only repeat others."""

import inspect
import math
from dataclasses import dataclass
from typing import Any

import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor

#: Arguments of which a distribution is given one.
ALTERNATIVES = (
    ("probs", "logits"),
    ("scale_tril", "covariance_matrix", "precision_matrix"),
)

#: States of independent elements that are counted out one by one.
MAX_STATES = 2**16


@dataclass(frozen=True)
class Peeled:
    """A distribution under ``to_event``, ``mask`` and generic ``expand``.

    :param base: what is under them.
    :param elements: how many of its rightmost batch dims were declared as event dims.
    :param mask: of the batch dims, or None.
    """

    base: Any
    elements: int
    mask: Any


def peel(fn: Any) -> Peeled:
    """Take the wrappers off a distribution."""
    elements, mask = 0, None
    while True:
        if isinstance(fn, torch.distributions.Independent):
            elements += fn.reinterpreted_batch_ndims
            fn = fn.base_dist
        elif isinstance(fn, MaskedDistribution):
            mask = fn._mask if mask is None else mask & fn._mask
            fn = fn.base_dist
        elif isinstance(fn, ExpandedDistribution):
            inner = fn.base_dist.expand(fn.batch_shape)
            if isinstance(inner, ExpandedDistribution):
                return Peeled(fn, elements, mask)
            fn = inner
        else:
            return Peeled(fn, elements, mask)


def narrowed(base: Any, plates: int, elements: int) -> Any:
    """A distribution without repetition along its plates: dims of equal rows have the size 1.

    A plate expands what was given for all of its rows to views without memory; whatever is computed
    of them would be computed for every row.

    :param plates: how many batch dims, in front of the elements, are plates.
    """
    given = given_arguments(base)
    if given is None:
        return base
    small = dict(given)
    lead = len(base.batch_shape)
    for place in range(max(0, lead - elements - plates), lead - elements):
        from_right = lead - place
        if not all(_repeats(base, n, v, from_right) for n, v in given.items()):
            continue
        for name, value in small.items():
            dim = _dim(base, name, value, from_right)
            if dim is not None:
                small[name] = _first(value, dim)
    kind = getattr(type(base), "__wrapped__", type(base))
    return kind(**small, validate_args=False)


def _first(value: Tensor, dim: int) -> Tensor:
    """The first entry along a dim, by the tensor that the value is a view of.

    The gradient through a view of the expanded tensor would have as many rows as that.
    """
    first = value.narrow(dim, 0, 1)
    base = value._base
    if base is None or value.numel() <= base.numel():
        return first
    return base.as_strided(first.shape, first.stride(), first.storage_offset())


def given_arguments(base: Any) -> dict[str, Any] | None:
    """The constructor's arguments, or None where they cannot be read off."""
    found: dict[str, Any] = {}
    names = [n for n in inspect.signature(type(base).__init__).parameters if n != "self"]
    names = [n for n in names if n != "validate_args"]
    for name in names:
        others = next((group for group in ALTERNATIVES if name in group), None)
        if others is not None:
            own = [o for o in others if o in vars(base)] or [others[0]]
            if name != own[0]:
                continue
        if not hasattr(base, name):
            return None
        found[name] = getattr(base, name)
    return found


def own_dims(base: Any, name: str) -> int:
    """The number of event dims of an argument."""
    return int(getattr(base.arg_constraints.get(name), "event_dim", 0))


def _dim(base: Any, name: str, value: Any, from_right: int) -> int | None:
    """Which dim of an argument is a batch dim of the distribution, if it has it."""
    if not isinstance(value, Tensor):
        return None
    dim = value.dim() - own_dims(base, name) - from_right
    return dim if dim >= 0 else None


def _repeats(base: Any, name: str, value: Any, from_right: int) -> bool:
    dim = _dim(base, name, value, from_right)
    return dim is None or value.shape[dim] == 1 or value.stride(dim) == 0


def finite_support(fn: Any) -> Tensor | None:
    """All values of a discrete distribution, or None where there is no finite list of them.

    :returns: the values that it has everywhere. # shape: (states, *event)
    """
    peeled = peel(fn)
    try:
        values = peeled.base.enumerate_support(expand=False)
    except NotImplementedError:
        return None
    own: Tensor = values.reshape(values.shape[0], *peeled.base.event_shape)
    if not peeled.elements:
        return own
    shape = tuple(fn.event_shape)[: peeled.elements]
    count = math.prod(shape)
    if len(own) ** count > MAX_STATES or own.dim() > 1:
        return None
    rows: Tensor = torch.cartesian_prod(*[own] * count).reshape(-1, *shape)
    return rows
