# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""What the processes of a test do, and what they found: numbers and texts by name."""

from pathlib import Path
from typing import Any

import pyro
import torch.distributed as distributed
from torch import Tensor

from pyro_blr import BLR
from pyro_blr.guides import AutoNatural

from .models import EXAMPLES, Example, N

#: Rows of the first process; the second has the others.
FIRST = 14


def rows(rank: int, size: int) -> slice:
    """The rows of a process: of two, parts of different sizes."""
    if size == 1:
        return slice(0, N)
    return (slice(0, FIRST), slice(FIRST, N))[rank]


def started(example: Example, **options: Any) -> BLR:
    pyro.clear_param_store()
    guide = AutoNatural(example.model)
    guide.set_natural(example.start())
    return BLR(example.model, guide, **{**example.options, **options})


def naturals(blr: BLR) -> dict[str, list[Tensor]]:
    """The posterior, and the parameters."""
    found = {b.name: [t.clone() for t in n] for b, n in blr.guide.naturals().items()}
    params = {f"param {n}": [v.detach().clone()] for n, v in pyro.get_param_store().items()}
    return {**found, **{n: v for n, v in params.items() if "natural" not in n}}


def run(example: Example, where: slice, steps: int, **options: Any) -> dict[str, Any]:
    """Some steps, then a fit."""
    pyro.set_rng_seed(3)
    blr = started(example, **options)
    args = example.part(where)
    losses = [blr.step(*args) for _ in range(steps)]
    after = naturals(blr)
    fit = blr.fit(*args, max_steps=30)
    return {
        "losses": losses,
        "steps": after,
        "messages": {n: list(m) for n, m in blr.messages(*args).items()},
        "fit": naturals(blr),
        "converged": fit.converged,
        "gap": fit.gap,
        "loss": blr.evaluate_loss(*args),
    }


def every_example(rank: int, size: int, folder: Path) -> dict[str, Any]:
    group = distributed.group.WORLD
    return {
        name: run(example, rows(rank, size), 2, process_group=group)
        for name, example in EXAMPLES.items()
    }
