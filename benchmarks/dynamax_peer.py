# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""dynamax in a process of its own, which keeps to as many cores as the other side has threads.

A job of `JOBS` in ``peers/dynamax_jobs.py`` is called by name with arrays; its seconds are measured
there, by the same clock.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .peers.process import Process
from .rows import Skipped

MEND = "pip install -c constraints.txt pyro-blr[dynamax]"


class Dynamax(Process):
    """The process; ``with Dynamax(threads) as peer: peer.job("smooth", **arrays)``.

    :raises Skipped: where dynamax is not installed.
    """

    def __init__(self, threads: int) -> None:
        if find_spec("dynamax") is None:
            raise Skipped(f"needs dynamax: {MEND}")
        super().__init__(Path(sys.executable), threads)

    def job(self, name: str, **arrays: Any) -> dict[str, np.ndarray]:
        """Run a job; its results, with "seconds" among them."""
        given = {"job": name, "arrays": {key: np.asarray(value) for key, value in arrays.items()}}
        found = self.call("dynamax_jobs", given, [])
        if "error" in found:
            raise RuntimeError(f"dynamax's process: {found['error']}")
        results: dict[str, np.ndarray] = found["arrays"]
        return results
