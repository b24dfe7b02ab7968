# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A device that holds no values: a mix of devices and any read but the listed ones raise."""

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode

from pyro_blr.energy import draws
from pyro_blr.estimators import gaussian_points
from pyro_blr.lifting import host

# A build of torch without CUDA has no device guard for it: autograd ends the process and Python
# indexing raises. The meta device has a guard in every build, and a fake tensor on it is to torch a
# tensor on an accelerator: it mixes with no CPU tensor that has dims, and has no values to read.
# So whole steps run on fake meta tensors, and what needs neither gradients nor indexing on fake
# CUDA tensors too.
WITH_GRADIENTS = "meta"
WITHOUT_GRADIENTS = ["meta", "cuda"]


class _NoTransfer(TorchDispatchMode):
    """Raises where a tensor is copied to the CPU: fake tensors would allow it, a device waits."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        target = (kwargs or {}).get("device")
        if func is torch.ops.aten._to_copy.default and target is not None:
            leaves = torch.device(target).type == "cpu" and args[0].device.type != "cpu"
            assert not leaves, "a copy from the device to the host"
        return func(*args, **(kwargs or {}))


def _points(*args: Any, **kwargs: Any) -> Tensor:
    """Points of the CPU, which have values: torch has no fake kernel for Sobol's sequence."""
    with unset_fake_temporarily():
        return gaussian_points(*args, **kwargs)


Answer = Callable[[Tensor], float]


@contextmanager
def fake_device(
    patch: pytest.MonkeyPatch,
    number: Answer | None = None,
    truth: Answer | None = None,
    copies: bool = False,
) -> Iterator[Counter[str]]:
    """Run on tensors without values; the listed reads are counted, and answered by constants.

    :param number: the answer to a read of a scalar; 0 serves as a loss that never falls, an error
        of quadrature and a size.
    :param truth: the answer to a check; true unless given.
    :param copies: whether to let tensors be copied to the host.
    """
    reads: Counter[str] = Counter()

    def answered(name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def read(*args: Any) -> Any:
            reads[name] += 1
            return answer(*args)

        return read

    def several(answer: Answer) -> Answer:
        return lambda tensors: [answer(t) for t in tensors]  # type: ignore[return-value]

    number, truth = number or (lambda _: 0.0), truth or (lambda _: True)

    forget_tables()
    with patch.context() as inner:
        inner.setattr(host, "number", answered("number", number))
        inner.setattr(host, "numbers", answered("number", several(number)))
        inner.setattr(host, "truth", answered("truth", truth))
        inner.setattr(host, "truths", answered("truth", several(truth)))
        inner.setattr(host, "seed", lambda: 1)
        inner.setattr(draws, "gaussian_points", _points)
        with FakeTensorMode(allow_non_fake_inputs=True), nullcontext() if copies else _NoTransfer():
            yield reads
    forget_tables()


def forget_tables() -> None:
    """Clear what the package keeps for the process: a table made here would have no values."""
    for name, module in list(sys.modules.items()):
        if name.startswith("pyro_blr"):
            for value in vars(module).values():
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def fakes(data: tuple[Tensor, ...], device: str) -> tuple[Tensor, ...]:
    """Tensors without values, of the shapes and dtypes of data."""
    return tuple(torch.empty(t.shape, dtype=t.dtype, device=device) for t in data)
