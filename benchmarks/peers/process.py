# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A program in a process of its own, which keeps to as many cores as the other sides have threads.

Not every library has a switch that holds it to a number of threads; the affinity of its process is
one for all. A job is given and answered through files; its seconds are measured there.
"""

import json
import os
import pickle
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

from ..machine import ROOT

#: What libraries read of the number of threads when they are loaded.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")


class Process:
    """A worker in an environment; ``with Process(python, threads) as p: p.call("blr", given)``.

    :param Path python: the interpreter.
    """

    def __init__(self, python: Path, threads: int) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.log = Path(self.folder.name) / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [str(python), "-W", "ignore", "-m", "benchmarks.peers.worker", str(threads)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={
                    **os.environ,
                    **dict.fromkeys(THREADS, str(threads)),
                    "JAX_PLATFORMS": "cpu",
                    "JAX_ENABLE_X64": "1",
                    "PYTHONPATH": str(ROOT),
                },
            )

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.process.kill()
        self.process.communicate()
        self.folder.cleanup()

    def call(self, peer: str, given: dict[str, Any], packages: list[str]) -> dict[str, Any]:
        """What a peer answers; ``{"error": why}`` where it could not.

        :param packages: whose versions are told.
        """
        files = {name: Path(self.folder.name) / name for name in ("given", "made")}
        files["given"].write_bytes(pickle.dumps(given))
        request = {"peer": peer, "packages": packages, **{k: str(v) for k, v in files.items()}}
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline() if self.process.stdout else ""
        if line.strip() != "done":
            last = self.log.read_text().strip().splitlines()[-1:] or [""]
            return {"error": f"its process ended with {self.process.wait()}: {last[0]}"}
        found: dict[str, Any] = pickle.loads(files["made"].read_bytes())
        return found
