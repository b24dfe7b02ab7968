# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Polynomials that an earlier trace has made of the same things are taken from the cache.

The model is run anew at every step, but most of its steps meet the same constants in the same
operations. A polynomial in the cache is recognised by identity: it is made of a latent's own, by
operations on constants that are recognised (see :mod:`~pyro_blr.lifting.constants`). What involves
a tensor that requires a gradient is always made anew.
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from . import constants
from .polynomial import Polynomial
from .terms import NotPolynomial


class _Unknown(Exception):
    """Something that has no name in the cache."""


def recalled(name: Hashable, compute: Callable[[], Any], arguments: Any) -> Any:
    """``compute()``, a polynomial or several, taken from the cache if it knows the arguments.

    :param name: what is computed, beside the arguments.
    :param arguments: nested containers of polynomials, constants and plain values.
    :raises NotPolynomial: as ``compute`` does, also from the cache.
    """
    cache = constants.active()
    if cache is None:
        return compute()
    held: list[Any] = []
    try:
        key = (name, _name(arguments, held))
    except _Unknown:
        return compute()
    result = cache.lookup(key, lambda: _computed(compute), tuple(held))
    if isinstance(result, NotPolynomial):
        raise NotPolynomial(str(result))
    return result


def _computed(compute: Callable[[], Any]) -> Any:
    try:
        result = compute()
    except NotPolynomial as error:
        return NotPolynomial(str(error))
    for one in (result,) if isinstance(result, Polynomial) else result:
        one.is_kept = True
    return result


def _name(item: Any, held: list[Any]) -> Hashable:
    """A hashable name; what is named by memory or identity is to be held."""
    poly = getattr(item, "poly", item)
    if isinstance(poly, Polynomial):
        if not poly.is_kept:
            raise _Unknown
        held.append(poly)
        return "polynomial", id(poly)
    if isinstance(item, Tensor):
        if poly is None or item.requires_grad or item.layout != torch.strided:
            raise _Unknown
        core = _without_repeats(item)
        held.append(core)
        return tuple(item.shape), constants.key_of(core)
    if isinstance(item, list | tuple):
        return type(item), tuple(_name(i, held) for i in item)
    if isinstance(item, Mapping):
        return tuple((k, _name(v, held)) for k, v in item.items())
    if isinstance(item, slice):
        return "slice", item.start, item.stop, item.step
    if item is None or type(item) in _PLAIN:
        return type(item), item
    raise _Unknown


def _without_repeats(tensor: Tensor) -> Tensor:
    """The elements that expanded dims repeat: a prior's ``torch.zeros(K)`` in a long plate."""
    for dim in reversed(range(tensor.dim())):
        if tensor.stride(dim) == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


#: What is its own name; with its type, since 1, 1.0 and True are equal.
_PLAIN = frozenset({bool, int, float, str, torch.dtype, torch.device, type(...)})
