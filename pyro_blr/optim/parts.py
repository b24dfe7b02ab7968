# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Lists of tensors in parts that fit a cache, so that many operations cost one pass over memory."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from .sharding import all_local

#: Elements of a part on the CPU: some ten lists of 2^16 floats are within a core's own cache.
CPU_PART = 2**16

#: On an accelerator a part bounds the memory of what is computed on the way: 64 MiB a list.
DEVICE_PART = 2**24


def in_parts(*columns: Sequence[Tensor]) -> Iterator[tuple[list[Tensor], ...]]:
    """The same lists a part at a time: small tensors together, large ones as slices of them.

    Of tensors that are spread over processes it is the parts that this process has.

    :param columns: lists of tensors; the i-th ones of all lists have one shape and one device.
    :return: for each part the lists of its tensors, which are views.
    """
    part: list[tuple[Tensor, ...]] = []
    held = 0
    for row in zip(*map(all_local, columns), strict=True):
        limit = CPU_PART if row[0].device.type == "cpu" else DEVICE_PART
        for piece in _pieces(row, limit):
            count = piece[0].numel()
            if part and held + count > limit:
                yield tuple(map(list, zip(*part, strict=True)))
                part, held = [], 0
            part.append(piece)
            held += count
    if part:
        yield tuple(map(list, zip(*part, strict=True)))


def _pieces(row: tuple[Tensor, ...], limit: int) -> Iterator[tuple[Tensor, ...]]:
    """A row whole, or slices of it along memory; one with gaps in its memory stays whole."""
    if row[0].numel() <= limit or not all(t.is_contiguous() for t in row):
        yield row
        return
    yield from zip(*(torch.split(t.view(-1), limit) for t in row), strict=True)
