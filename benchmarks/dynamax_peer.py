# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""dynamax in a process of its own, which keeps to as many cores as the other side has threads.

XLA has no switch that holds it to a number of threads; the affinity of its process does. A job of
`JOBS` is called by name with arrays; its seconds are measured there, by the same clock.
"""

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from .machine import ROOT
from .rows import Skipped

MEND = "pip install -c constraints.txt pyro-blr[dynamax]"


class Dynamax:
    """The process; ``with Dynamax(threads) as peer: peer.call("smooth", **arrays)``.

    :raises Skipped: where dynamax is not installed.
    """

    def __init__(self, threads: int) -> None:
        if find_spec("dynamax") is None:
            raise Skipped(f"needs dynamax: {MEND}")
        self.folder = tempfile.TemporaryDirectory()
        self.process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.dynamax_jobs", str(threads)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)},
        )

    def __enter__(self) -> "Dynamax":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.process.communicate()
        self.folder.cleanup()

    def call(self, job: str, **arrays: Any) -> dict[str, np.ndarray]:
        """Run a job; its results, with "seconds" among them."""
        given, made = (Path(self.folder.name) / name for name in ("given.npz", "made.npz"))
        np.savez(given, **arrays)
        request = {"job": job, "given": str(given), "made": str(made)}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if answer.strip() != "done":
            raise RuntimeError(f"dynamax's process ended with {self.process.wait()}")
        with np.load(made) as results:
            return dict(results)
