# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Short names of numbers and of data: equal where they are equal."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

#: Elements of an array that its fingerprint looks at: other rows, or another order, are other ones.
LOOKED_AT = 64


def digest(tensors: Iterable[Tensor], words: str = "") -> str:
    """A short name of numbers, and of words with them: other for other bits."""
    bits = hashlib.blake2b(words.encode(), digest_size=6)
    for tensor in tensors:
        bits.update(_bytes(tensor))
    return bits.hexdigest()


def fingerprint(data: Any) -> str:
    """A short name of a part of the data, from its shapes and some of its numbers."""
    bits = hashlib.blake2b(digest_size=6)
    for piece in _pieces(data):
        bits.update(piece)
    return bits.hexdigest()


def _pieces(data: Any) -> Iterator[bytes]:
    if isinstance(data, Mapping):
        for name in sorted(data, key=str):
            yield str(name).encode()
            yield from _pieces(data[name])
    elif isinstance(data, list | tuple):
        yield str(len(data)).encode()
        for own in data:
            yield from _pieces(own)
    elif isinstance(data, Tensor) and data.layout != torch.strided:
        entries = data.detach().to_sparse_coo().coalesce()
        yield from _pieces((tuple(data.shape), entries.indices(), entries.values()))
    elif isinstance(data, Tensor | np.ndarray):
        yield f"{tuple(data.shape)} {data.dtype}".encode()
        flat = data.reshape(-1)
        some = flat[:: max(1, len(flat) // LOOKED_AT)]
        yield _bytes(some) if isinstance(some, Tensor) else some.tobytes()
    elif isinstance(data, bool | int | float | str | None):
        yield repr(data).encode()


def _bytes(tensor: Tensor) -> bytes:
    """The numbers' bits; NumPy has no bfloat16."""
    flat = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
