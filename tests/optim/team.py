# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Processes that wait for functions to run side by side, in a group of ``torch.distributed``."""

import multiprocessing
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import distributed


class Team:
    """Some ranks; :meth:`run` calls a function of a module on each of them, in step."""

    def __init__(self, size: int, folder: Path) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "pyro_blr.optim", "torch.distributed.fsdp"])
        self.pipes, self.processes = [], []
        for rank in range(size):
            mine, theirs = context.Pipe()
            arguments = (theirs, rank, size, str(folder / f"store{size}"))
            process = context.Process(target=_serve, args=arguments, daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(mine)
            self.processes.append(process)

    def run(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        """What the function returned on each rank; the error's name and text where it raised."""
        for pipe in self.pipes:
            pipe.send((function, args))
        answers = [_answer(pipe) for pipe in self.pipes]
        for answer in answers:
            if isinstance(answer, str):
                raise AssertionError(answer)
        return answers

    def end(self) -> None:
        """Stop the processes."""
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(10)
            process.kill()


def _answer(pipe: Any) -> Any:
    if not pipe.poll(60):
        return "no answer after 60 seconds"
    try:
        return pipe.recv()
    except EOFError:
        return None  # it was killed


def _serve(pipe: Any, rank: int, size: int, store: str) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=size
    )
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            break
        try:
            pipe.send(function(rank, *args))
        except BaseException:
            pipe.send(traceback.format_exc())
    distributed.destroy_process_group()
