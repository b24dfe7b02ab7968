# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The most memory that a function takes beyond what was held before it, as Linux counts it."""

import gc
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak(function: Callable[[], Any], unit: int) -> float:
    """In units of so many bytes; NaN where the system does not say.

    The function is called three times: what the first call keeps counts too.
    """
    gc.collect()
    try:
        RESET.write_text("5")  # the peak begins anew at what is resident now
        before = kilobytes("VmRSS")
        for _ in range(3):
            function()
        return 1024 * (kilobytes("VmHWM") - before) / unit
    except OSError:
        return math.nan


def begin() -> int | None:
    """Kilobytes that are resident now, at which the peak begins anew; None without Linux."""
    try:
        RESET.write_text("5")
        return kilobytes("VmRSS")
    except OSError:
        return None


def risen(before: int | None) -> float | None:
    """MB that the peak is above what was resident at the beginning; None where it is not known."""
    return None if before is None else (kilobytes("VmHWM") - before) / 1024


def kilobytes(name: str) -> int:
    """A line of the process's status."""
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))
