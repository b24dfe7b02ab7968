# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""``pytest --device``: whether the device is there, and tests' own data on it."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from tests import simulated

TESTS = str(Path(__file__).parent)
#: The pages' tables run the calls of the tests.
TABLES = str(Path(__file__).parent.parent / "docs" / "spelled.py")
PACKAGE = str(Path(__file__).parent.parent / "pyro_blr")


def missing(name: str) -> str:
    """Why a device cannot be used, in one sentence; empty if it can."""
    if name.split(":")[0] == simulated.NAME:
        try:
            simulated.set_up()
        except Exception as error:  # no compiler, no headers, another torch
            return f"--device {name}: building it failed: {error}"
    try:
        torch.ones(1, device=name) + 1
    except Exception as error:  # torch's own classes for it differ from device to device
        first = str(error).split("\n")[0]
        return f"--device {name}: there is no such device on this machine ({first})"
    return ""


class HostSide(TorchFunctionMode):
    """What tests do on the host, and the package may not.

    Their data are drawn by seeded generators of the CPU, so that they are the same on every device,
    and their oracles are in NumPy. Calls from any other place are left as they are: there a
    generator of the wrong device and a tensor given to NumPy stay errors.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        generator = kwargs.get("generator")
        drawn = generator is not None and generator.device.type == "cpu" and "device" not in kwargs
        around = _drawn if drawn else _WRAPPED.get(func)
        if around is None or not _is_by_a_test():
            return func(*args, **kwargs)
        return around(func, *args, **kwargs)


def _is_by_a_test() -> bool:
    """Whether a call is a test's own, or of what a test gave its tensors to, as SciPy is."""
    frame = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_filename.startswith((TESTS, TABLES, PACKAGE)):
            return not frame.f_code.co_filename.startswith(PACKAGE)
        frame = frame.f_back
    return False


def _drawn(func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """A draw by a generator of the CPU, put where the test's tensors are."""
    with torch.device("cpu"):
        made = func(*(a.cpu() if isinstance(a, Tensor) else a for a in args), **kwargs)
    return made.to(torch.get_default_device())


def _to_host(func: Callable[..., Any], tensor: Tensor, *args: Any, **kwargs: Any) -> Any:
    return func(tensor.cpu(), *args, **kwargs)


def tests_on(name: str) -> None:
    """Make tests' tensors on a device from here on."""
    torch.set_default_device(name)
    HostSide().__enter__()  # for as long as the process lives
    from_numpy = torch.from_numpy

    def from_host(array: Any) -> Tensor:
        is_of_a_test = sys._getframe(1).f_code.co_filename.startswith(TESTS)
        made = from_numpy(array)
        return made.to(torch.get_default_device()) if is_of_a_test else made

    torch.from_numpy = from_host  # torch's own function passes no mode
    # Statistics of draws are on the host by intention; tests of devices ask for the device.
    torch.testing.assert_close = partial(torch.testing.assert_close, check_device=False)


_WRAPPED: dict[Any, Callable[..., Any]] = {
    Tensor.numpy: _to_host,
    Tensor.__array__: _to_host,
}
