# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A second device on any machine with a C++ compiler: ``pytest --device simulated``.

Unlike fake tensors its tensors have values, so whole tests run on it; unlike the CPU it refuses a
mix of devices as CUDA does, and counts the reads by the host. It is no faster than the CPU.
"""

import warnings
from collections import Counter
from contextlib import nullcontext
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

NAME = "simulated"
SOURCE = Path(__file__).with_name("device.cpp")
#: What torch says of kernels that write into a result, which the device makes before it has a size.
WARNINGS = ("An output with one or more elements was resized",)


class _Module(ModuleType):
    """What torch asks of a device's module (as ``torch.cuda`` is that of CUDA's)."""

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def current_device(self) -> int:
        return 0

    def device(self, device: Any) -> Any:
        """The context of a device: there is one alone."""
        return nullcontext()

    def _is_in_bad_fork(self) -> bool:
        return False

    def manual_seed_all(self, seed: int) -> None:
        """Nothing: the device's default generator is the CPU's."""

    def synchronize(self, device: Any = None) -> None:
        """Nothing: every operation has ended when it returns."""

    def get_rng_state(self, device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


@lru_cache(maxsize=1)
def set_up() -> Any:
    """Build the device (a minute, once) and enter it into torch.

    :raises RuntimeError: where there is no compiler, or an older torch than the source is for.
    """
    from torch.utils import cpp_extension

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.utils.rename_privateuse1_backend(NAME)
        built = cpp_extension.load(
            "pyro_blr_simulated", [str(SOURCE)], extra_cflags=["-O1", "-Wno-unused"], verbose=False
        )
        torch._register_device_module(NAME, _Module(f"torch.{NAME}"))
        torch.utils.generate_methods_for_privateuse1_backend(unsupported_dtype=[torch.quint8])
    return built


def is_default() -> bool:
    """Whether tests make their tensors on it."""
    return torch.get_default_device().type == NAME


def lacks(what: str) -> pytest.MarkDecorator:
    """The mark of a test of what this device has not, but a GPU has."""
    return pytest.mark.skipif(is_default(), reason=f"the simulated device has no {what}")


def reads() -> Counter[str]:
    """How often the host has waited for a value so far, by operation."""
    return Counter(set_up().reads())
