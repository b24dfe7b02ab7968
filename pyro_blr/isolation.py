# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Steps that leave nothing behind: parameters, their store and random numbers stay as they are.

A copy of an engine has a guide of its own, but Pyro's param store, and modules that a model closes
over, are there once. What steps may move is noted before they do, and put back.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor

from .guides.leaf import leaf_of
from .random_state import same_random_state


class Kept(Messenger):
    """Tensors as they were when they were first seen, their gradients with them.

    Around a call it sees every ``pyro.param`` that no ``poutine.block`` hides.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held: dict[int, tuple[Tensor, Tensor, Tensor | None]] = {}

    def add(self, leaves: Iterable[Tensor]) -> None:
        """Note some tensors, unless they were noted before."""
        for leaf in leaves:
            self._held.setdefault(id(leaf), (leaf, leaf.detach().clone(), leaf.grad))

    def _pyro_post_param(self, msg: dict[str, Any]) -> None:
        self.add([leaf_of(msg["value"])])

    def put_back(self) -> None:
        """Give the tensors their values again; one that has it is not written to."""
        with torch.no_grad():
            for leaf, value, gradient in self._held.values():
                if not _is_same(leaf, value):
                    leaf.copy_(value)
                leaf.grad = gradient


def _is_same(first: Tensor, second: Tensor) -> bool:
    return bool(torch.equal(first.nan_to_num(), second.nan_to_num()))


@contextmanager
def nothing_left_behind() -> Iterator[Kept]:
    """Put back, at the end, the param store, every tensor that was noted, and random numbers."""
    store, kept = pyro.get_param_store(), Kept()
    state = store.get_state()
    kept.add(state["params"].values())
    try:
        with same_random_state(), kept:
            yield kept
    finally:
        store.clear()
        store.set_state(state)
        kept.put_back()
