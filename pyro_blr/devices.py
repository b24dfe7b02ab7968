# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Which device the tensors of a call are on, and torch's refusals to mix devices or dtypes."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .errors import BLRError


def accelerator_of(given: Any) -> torch.device | None:
    """The one device besides the CPU that tensors in arguments are on; None where none is."""
    found = {t.device for t in _tensors(given) if t.device.type != "cpu"}
    return found.pop() if len(found) == 1 else None


def _tensors(given: Any) -> Iterator[Tensor]:
    if isinstance(given, Tensor):
        yield given
    elif isinstance(given, nn.Module):
        yield from given.parameters()
        yield from given.buffers()
    elif isinstance(given, Mapping):
        yield from (t for v in given.values() for t in _tensors(v))
    elif isinstance(given, list | tuple):
        yield from (t for v in given for t in _tensors(v))


def is_mix_of_dtypes(error: BaseException) -> bool:
    """Whether torch refused tensors of two dtypes, as products of matrices do."""
    words = ("same dtype", "expected scalar type", "expected dtype", "have dtype")
    return _is_of_torch(error) and any(w in str(error) for w in words)


def is_mix_of_devices(error: BaseException) -> bool:
    """Whether torch refused tensors of two devices; its words depend on the operation."""
    words = ("same device", "device type", "is on CPU", "on GPU", "expected device")
    return _is_of_torch(error) and any(w in str(error) for w in words)


def _is_of_torch(error: BaseException) -> bool:
    """Whether it may be a refusal of torch's: not an error of the device itself, nor our own."""
    if not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError | BLRError):
        return False
    return not str(error).startswith("CUDA error")
