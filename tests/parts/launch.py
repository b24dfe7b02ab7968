# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Starts the processes of a test and collects what they found."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent.parent


def start(scenario: str, folder: Path, size: int = 2) -> list[subprocess.Popen[str]]:
    """The processes of a scenario."""
    command = [sys.executable, "-W", "error", "-m", "tests.parts.worker", scenario]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [*command, str(rank), str(size), str(folder)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]


def together(scenario: str, folder: Path, size: int = 2) -> list[dict[str, Any]]:
    """What each process of a scenario found."""
    processes = start(scenario, folder, size)
    try:
        texts = [p.communicate(timeout=120)[1] for p in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(p.returncode == 0 for p in processes), "\n".join(texts)
    return [torch.load(folder / f"found-{rank}.pt") for rank in range(size)]
