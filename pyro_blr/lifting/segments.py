# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Sums over index maps: from the rows that an index runs along to what it names."""

import torch
from torch import Tensor

from .axes import Axis, Gather, device_of, grid
from .contraction import Operand

#: A pair of index maps (user, item) makes a dense table of users times items. A cell of it costs a
#: multiplication, a row a gather and a scatter of both statistics, 50 times as much where measured
#: (20000 rows, 16 columns): so a table may have this many cells a row (or of 512 rows), ...
GROWTH = 32
#: ... and this many in all: 32 MB.
MAX_CELLS = 2**22


def scatter(
    consts: tuple[Operand, ...],
    gathers: list[Gather],
    sizes: list[int],
    axes: tuple[Axis, ...],
) -> tuple[tuple[Operand, ...], list[Axis | None]] | None:
    """Sum constants over index maps: from ``axes`` to a new axis for each map (None if size 1)."""
    mine = [c for c in consts if set(c[1]) & set(axes)]
    if len(mine) > 1:
        return None
    one = torch.ones((), dtype=torch.float64, device="cpu")
    tensor, own = mine[0] if mine else (one, ())
    if tensor.device.type == "cpu":
        tensor = tensor.to(device_of(gathers))
    rest = tuple(a for a in own if a not in axes)
    rows = 1
    for a in axes:
        rows *= a.size
    cells = 1
    for size in sizes:
        cells *= size
    if cells > min(GROWTH * max(rows, 512), max(MAX_CELLS, 4 * rows)):
        return None
    order = [own.index(a) for a in (*(x for x in axes if x in own), *rest)]
    tensor = tensor.permute(order)
    shape = [a.size if a in own else 1 for a in axes]
    behind = [a.size for a in rest]
    tensor = tensor.reshape([*shape, *behind]).expand([*(a.size for a in axes), *behind])
    flat = torch.zeros((), dtype=torch.long, device=tensor.device)
    for gather, size in zip(gathers, sizes, strict=True):
        flat = flat * size + grid(gather, axes, tensor.device)
    index = flat.expand([a.size for a in axes]).reshape(-1)
    values = tensor.reshape([rows, *behind])
    summed = segment_sum(values, index, cells)
    kept = [Axis(size) if size != 1 else None for size in sizes]
    summed = summed.reshape([*(a.size for a in kept if a), *behind])
    others = tuple(c for c in consts if not any(c is m for m in mine))
    return (*others, (summed, (*(a for a in kept if a), *rest))), kept


def segment_sum(values: Tensor, index: Tensor, count: int) -> Tensor:
    """``out[p] = sum of values[n] with index[n] = p``, in one order on every device."""
    if values.device.type == "cpu":
        out = torch.zeros(count, *values.shape[1:], dtype=values.dtype, device="cpu")
        return out.index_add(0, index, values)
    return sorted_segment_sum(values, index, count)


def sorted_segment_sum(values: Tensor, index: Tensor, count: int) -> Tensor:
    """:func:`segment_sum` where ``index_add`` adds in an order that changes from run to run.

    The rows are sorted by segment, and each sum's rows found by bisection: counting them would wait
    for the device.
    """
    order = torch.argsort(index, stable=True)
    ends = torch.arange(count + 1, device=index.device)
    offsets = torch.searchsorted(index.index_select(0, order), ends)
    return torch.segment_reduce(values.index_select(0, order), "sum", offsets=offsets, axis=0)
