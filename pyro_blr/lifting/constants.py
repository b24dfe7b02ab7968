# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Constants of a trace: how they are recognised again, and what was computed from them once.

The model is run anew at every step, so closures, branches, ``self.training`` and random numbers are
always what they are now. What is *not* done anew is arithmetic on data: a constant is recognised by
its memory, version, shape, dtype and device (small ones by their content), and whatever was
computed from recognised constants, ``X.T @ X`` among it, is taken from a :class:`ConstantCache`.

A tensor that requires a gradient (a ``pyro.param``, anything computed from one) is never
recognised. Entries hold their tensors by reference, so that no address can be given to other data
while an entry lives; an entry that was not used for :data:`GENERATIONS` traces is dropped, which
bounds the cache.
"""

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from math import prod
from typing import Any

from torch import Tensor, strided

from . import host

#: Traces for which an unused entry is kept: enough for a training batch, a test batch and a few
#: alternating mini-batches, few enough that fresh mini-batches do not pile up.
GENERATIONS = 8

#: Constants of at most this many elements are recognised by content: a prior's ``torch.zeros(10)``
#: is a new tensor at each trace, and reading it costs less than a microsecond an element.
SMALL = 64

#: Elements read from memory that NumPy may change without a trace (see :func:`_probe`).
PROBE = 4096


class ConstantCache:
    """What was computed from constants, by recipe and operands; one for each engine."""

    def __init__(self) -> None:
        self._entries: dict[Hashable, tuple[int, Any, tuple[Any, ...]]] = {}
        self._generation = 0
        self._keys: dict[int, tuple[Tensor, Hashable]] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def next_trace(self) -> None:
        """Begin a trace: forget the keys of the last one and what was not used for a while."""
        self._generation += 1
        self._keys.clear()
        oldest = self._generation - GENERATIONS
        stale = [key for key, (used, _, _) in self._entries.items() if used < oldest]
        for key in stale:
            del self._entries[key]

    def clear(self) -> None:
        """Drop everything."""
        self._entries.clear()
        self._keys.clear()

    def lookup(self, key: Hashable, compute: Callable[[], Any], held: tuple[Any, ...]) -> Any:
        """The value under a key, computed at the first call.

        :param held: the tensors whose memory the key names; kept alive with the entry.
        """
        entry = self._entries.get(key)
        value, held = (compute(), held) if entry is None else (entry[1], entry[2])
        self._entries[key] = (self._generation, value, held)
        return value

    def key_of(self, tensor: Tensor) -> Hashable:
        """A hashable name of a constant's content; see the module's docstring."""
        known = self._keys.get(id(tensor))
        if known is None:
            known = self._keys[id(tensor)] = (tensor, _name(tensor))
        return known[1]


_active: ContextVar[ConstantCache | None] = ContextVar("pyro_blr_constants", default=None)


@contextmanager
def using(cache: ConstantCache) -> Iterator[None]:
    """Make a cache the one that lifted operations use."""
    token = _active.set(cache)
    try:
        yield
    finally:
        _active.reset(token)


def active() -> ConstantCache | None:
    """The cache in use, if any."""
    return _active.get()


def memo(compute: Callable[..., Any], tensors: tuple[Tensor, ...], *extra: Hashable) -> Any:
    """``compute(*tensors, *extra)``, computed once for the same constants.

    :param compute: a pure function with a stable identity (not a fresh ``lambda``).
    """
    cache = _active.get()
    if cache is None or any(t.requires_grad for t in tensors):
        return compute(*_together(tensors), *extra)
    key = (compute, *(cache.key_of(t) for t in tensors), extra)
    return cache.lookup(
        key, lambda: compute(*_together(tuple(own(t) for t in tensors)), *extra), tensors
    )


def _together(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The tensors where the first one that is not on the host is.

    Plain numbers are on it, however often they are repeated; what is larger is not copied unasked.
    """
    home = next((t.device for t in tensors if t.device.type != "cpu"), None)
    if home is None:
        return tensors
    return tuple(t.to(home) if _distinct(t) <= SMALL else t for t in tensors)


def _distinct(tensor: Tensor) -> int:
    """The number of elements that expanded dims do not repeat."""
    if tensor.layout != strided:
        return tensor.numel()
    return prod(n for n, step in zip(tensor.shape, tensor.stride(), strict=True) if step)


def own(tensor: Tensor) -> Tensor:
    """A constant that may be kept: what is recognised by content must keep its content.

    The user may write into a small tensor; another one with the old content then finds what was
    made of the first. Larger ones are recognised by a version that never returns.
    """
    by_content = tensor.numel() <= SMALL and host.readable(tensor) and not tensor.requires_grad
    return tensor.detach().clone() if by_content else tensor


def key_of(tensor: Tensor) -> Hashable:
    """The active cache's name of a constant."""
    cache = _active.get()
    return _name(tensor) if cache is None else cache.key_of(tensor)


def small_content(tensor: Tensor) -> tuple[Any, ...] | None:
    """The elements of a small constant, read once a trace; None of what is larger or has none."""
    if tensor.numel() > SMALL or tensor.requires_grad or not host.readable(tensor):
        return None
    *_, content = key_of(tensor)  # type: ignore[misc]
    return content  # type: ignore[no-any-return, has-type]


def same_tensor(first: Tensor, second: Tensor) -> bool:
    """Whether two constants are recognised as the same."""
    return first is second or key_of(first) == key_of(second)


def _name(tensor: Tensor) -> Hashable:
    head = (tensor.shape, tensor.dtype, tensor.device)
    if tensor.numel() <= SMALL and host.readable(tensor):
        return ("content", *head, host.content(tensor))
    if not host.readable(tensor):
        return ("identity", *head, id(tensor))
    storage = tensor.untyped_storage()
    version = None if tensor.is_inference() else tensor._version
    lent = None if storage.resizable() else _probe(tensor)
    return ("memory", *head, tensor.stride(), tensor.data_ptr(), version, lent)


def _probe(tensor: Tensor) -> Hashable:
    """A checksum for memory lent by or to NumPy, whose changes bump no version counter.

    Up to :data:`PROBE` elements it is complete; beyond, it reads an evenly spread sample, which
    sees any change of the whole array but can miss one of a few elements: that is what
    ``check_every`` and ``invalidate`` are for.
    """
    sample = tensor.detach()
    if sample.numel() > PROBE and sample.is_contiguous():
        sample = sample.view(-1)[:: sample.numel() // PROBE]
    elif sample.numel() > PROBE:
        sample = sample[:: max(1, sample.numel() // PROBE)]
    return host.checksum(sample)
