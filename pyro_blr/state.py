# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The whole state of a run as tensors, numbers and strings: resumed, it goes on bit for bit.

Each part gives and takes its own piece, under its own name; what a step computes anew from these
(rules of quadrature, folded constants, the choice of points) is not saved.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from . import errors
from .guides.checkpoint import require
from .random_state import random_state, set_random_state

#: The form of a saved state; it grows by one when a piece changes its meaning.
VERSION = 1


class Part(Protocol):
    """Something that a run must remember."""

    def state(self) -> Any:
        """A copy of what it remembers: dicts and lists of tensors, numbers and strings."""

    def load_state(self, state: Any, /) -> None:
        """Take up what :meth:`state` returned."""


def collect(parts: Mapping[str, Part], engine: Mapping[str, Any]) -> dict[str, Any]:
    """The pieces of all parts, and of the random number generators.

    :param engine: what the engine itself remembers.
    """
    pieces = {name: part.state() for name, part in parts.items()}
    return {"version": VERSION, "engine": dict(engine), **pieces, "random": random_state()}


def distribute(parts: Mapping[str, Part], state: Mapping[str, Any], with_random: bool) -> None:
    """Give each part its piece.

    :param with_random: whether the generators go on as well.
    :raises CheckpointError: if the state is not one of this engine; nothing has changed then.
    """
    require(state, ("version", "engine", *parts, "random"), "the engine")
    require(state["engine"], ("num_steps", "is_laid_out", "notes"), "the engine's own numbers")
    if state["version"] != VERSION:
        raise errors.CheckpointError(
            f"the saved state has the form {state['version']}, and this version of pyro_blr reads "
            f"the form {VERSION}. Mend: load it with the version that saved it."
        )
    for name, part in parts.items():
        part.load_state(state[name])
    if with_random:
        set_random_state(state["random"])
