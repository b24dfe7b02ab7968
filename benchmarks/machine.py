# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a measurement depends on: machine, threads, versions, commit."""

import os
import platform
import subprocess
from contextlib import AbstractContextManager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from threadpoolctl import threadpool_info, threadpool_limits

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("pyro-blr", "pyro-ppl", "torch", "numpy", "scipy", "scikit-learn", "bayespy"),
    *("numpyro", "jax", "dynamax"),
)


def limit_threads(threads: int) -> AbstractContextManager[Any]:
    """Hold torch, and the BLAS and OpenMP of NumPy and SciPy, to so many threads."""
    torch.set_num_threads(threads)
    return threadpool_limits(threads)


def describe() -> dict[str, Any]:
    """Everything to print and to write beside the figures."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": threads(),
        "load_average": load_average(),
        "python": platform.python_version(),
        "versions": {name: installed(name) for name in PACKAGES},
        "commit": git("rev-parse", "--short=12", "HEAD"),
        "package_modified_since": bool(git("status", "--porcelain", "--", "pyro_blr")),
    }


def threads() -> dict[str, int]:
    """Threads of each library that has any."""
    pools = {pool["internal_api"]: pool["num_threads"] for pool in threadpool_info()}
    return {"torch": torch.get_num_threads(), **pools}


def load_average() -> float:
    """How many processes wanted a core in the last minute, this one included."""
    return round(os.getloadavg()[0], 2)


def processor() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def installed(name: str) -> str | None:
    """The version of a package, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git(*arguments: str) -> str | None:
    """What git says of the checkout, or None outside one."""
    result = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    return result.stdout.strip() if result.returncode == 0 else None
