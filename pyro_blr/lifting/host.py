# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The listed points at which the host waits for a device.

Everything else in ``families``, ``lifting`` and ``steps`` is queued on the device without waiting.
A test runs them on fake CUDA tensors, where any other read of a value raises. The points are:

* :func:`content`: small constants of the model are read once a trace, to recognise them again;
* :func:`checksum`: a sample of memory shared with NumPy (host memory, so no wait in practice);
* :func:`number` and :func:`numbers`: the loss, and the sizes by which a step is judged;
* :func:`truth` and :func:`truths`: the checks of data, of constant arguments and of starts, once;
  whether a sum over discrete values is what the program says, once for its constants; whether a
  step is inside the cone; whether the messages of a hidden chain lost anything;
* :func:`settled`: how an operation moves elements, once for its shapes and its index tables, and
  whether a table names every element in order or its constants are finite, once for a plan;
* :func:`positions`: a boolean mask as an index, whose length is a value, once for a mask;
* :func:`seed`: from torch's generator on the CPU (host memory, so no wait).
"""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor


def readable(tensor: Tensor) -> bool:
    """Whether a tensor has memory to be recognised by (a fake or a lifted tensor has none)."""
    return not isinstance(tensor, FakeTensor) and tensor.device.type != "meta"


def content(tensor: Tensor) -> Hashable:
    """The values of a small constant, hashable; NaN is spelled so that it equals itself."""
    values = tensor.detach().reshape(-1).tolist()
    return tuple(v if v == v else "nan" for v in values)


def checksum(flat: Tensor) -> Hashable:
    """The bytes of a sample, hashed."""
    return hash(flat.cpu().contiguous().numpy().tobytes())


def number(tensor: Tensor) -> float:
    """A scalar as a Python float."""
    return float(tensor)


def numbers(tensors: Sequence[Tensor]) -> list[float]:
    """Several scalars as Python floats, by one wait where they are on one device."""
    if len({t.device for t in tensors}) > 1:
        return [number(t) for t in tensors]
    return torch.stack([t.detach() for t in tensors]).tolist() if tensors else []


def truth(tensor: Tensor) -> bool:
    """A scalar as a Python bool."""
    return bool(tensor)


def truths(tensors: Sequence[Tensor]) -> list[bool]:
    """Several scalars as Python bools, by one wait where they are on one device."""
    if len({t.device for t in tensors}) > 1:
        return [truth(t) for t in tensors]
    return torch.stack(list(tensors)).tolist() if tensors else []


def settled(check: Tensor) -> bool:
    """A check of index tables; those made from shapes alone are host memory, so no wait."""
    return bool(check)


def positions(mask: Tensor) -> tuple[Tensor, ...]:
    """The indices of a mask's true elements, one long tensor a dim."""
    return mask.nonzero(as_tuple=True)


def seed() -> int:
    """A fresh seed, which ``pyro.set_rng_seed`` makes repeatable."""
    return int(torch.randint(2**62, (), device="cpu"))
