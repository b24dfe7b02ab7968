# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Counts where the host would wait for a device, on the CPU: values that are read, by operation."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations that end with a number on the host, or whose result has a size that is a value.
WAITING = {
    torch.ops.aten._local_scalar_dense.default: "a number",
    torch.ops.aten.equal.default: "equal",
    torch.ops.aten.nonzero.default: "nonzero",
    torch.ops.aten.masked_select.default: "masked_select",
    torch.ops.aten._unique2.default: "unique",
    torch.ops.aten.bincount.default: "bincount",
    torch.ops.aten.repeat_interleave.Tensor: "repeat_interleave",
}
#: Indexing: by a mask it is nonzero.
INDEXING = (
    torch.ops.aten.index.Tensor,
    torch.ops.aten.index_put.default,
    torch.ops.aten.index_put_.default,
    torch.ops.aten._index_put_impl_.default,
)
#: Reads of memory that no operation sees on the CPU.
READS = {Tensor.tolist: "tolist", Tensor.numpy: "numpy", Tensor.__array__: "numpy"}


class _Operations(TorchDispatchMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in WAITING:
            self.found[WAITING[func]] += 1
        elif func in INDEXING and any(i is not None and i.dtype == torch.bool for i in args[1]):
            self.found["a mask"] += 1
        return func(*args, **(kwargs or {}))


class _Reads(TorchFunctionMode):
    def __init__(self, found: Counter[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func in READS:
            self.found[READS[func]] += 1
        return func(*args, **(kwargs or {}))


@contextmanager
def waits() -> Iterator[Counter[str]]:
    """Count what would wait in the block; numbers of the CPU by intention are counted too."""
    found: Counter[str] = Counter()
    with _Reads(found), _Operations(found):
        yield found


def of_each(call: Callable[[], Any], times: int) -> list[Counter[str]]:
    """The waits of each of several calls."""
    found = []
    for _ in range(times):
        with waits() as own:
            call()
        found.append(own)
    return found
