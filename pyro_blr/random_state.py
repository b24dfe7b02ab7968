# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The state of torch's random number generators: read, set, and kept across what is not counted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


def random_state() -> dict[str, Any]:
    """The state of the generators of the CPU and of each CUDA device in use, as tensors."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def set_random_state(state: Mapping[str, Any]) -> None:
    """Take up what :func:`random_state` returned; a device that is not here is left out."""
    torch.set_rng_state(state["cpu"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        for device, own in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(own.cpu(), device)


@contextmanager
def same_random_state() -> Iterator[None]:
    """Leave the generators as they were: what runs here is not part of a resumed computation."""
    before = random_state()
    try:
        yield
    finally:
        set_random_state(before)


@contextmanager
def from_seed(seed: int) -> Iterator[None]:
    """Draw the same numbers each time, and leave the generators as they were.

    Those of all devices: a seed is set for all of them, whichever draws.
    """
    with same_random_state():
        torch.manual_seed(seed)
        yield
