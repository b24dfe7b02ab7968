# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What is installed, and what it runs on."""

import platform
from importlib.metadata import PackageNotFoundError, version

import torch

from .._version import __version__
from ..fit import counted

#: Packages by the name of their distribution; those behind the line are extras.
NEEDED = ("torch", "pyro-ppl", "numpy")
EXTRAS = ("arviz", "arviz-base", "arviz-stats", "graphviz")


def about() -> str:
    """Versions and devices, a line each."""
    rows = [("pyro_blr", __version__), ("python", platform.python_version())]
    rows += [(name, _version(name) or "not found") for name in NEEDED]
    rows += [(name, found) for name in EXTRAS if (found := _version(name))]
    rows.append(("CPU", f"{counted(torch.get_num_threads(), 'thread')}, {platform.machine()}"))
    rows += [("CUDA", device) for device in _gpus()]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in rows)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _gpus() -> list[str]:
    if not torch.cuda.is_available():
        return ["none"]
    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [f"{i}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB" for i, gpu in enumerate(found)]
