# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""One process of several: ``python -m tests.parts.worker SCENARIO RANK SIZE FOLDER``."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as distributed

from tests.parts import scenarios


def main(scenario: str, rank: str, size: str, folder: str) -> None:
    torch.set_default_dtype(torch.float64)  # as in all tests
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/store",
        rank=int(rank),
        world_size=int(size),
        timeout=timedelta(seconds=60),
    )
    found = getattr(scenarios, scenario)(int(rank), int(size), Path(folder))
    # Else gloo ends this process by an abort now and then, where another one was killed.
    distributed.destroy_process_group()
    torch.save(found, f"{folder}/found-{rank}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
