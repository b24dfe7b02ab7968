# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a call has added up over parts of the data, in a folder: killed, it goes on where it was.

A call on parts is passes over all data, each of which adds up a few numbers. Begun from the same
state it takes the same passes, so that the sums of those that ended need no data a second time, and
the one that was interrupted goes on after the last part that it had. The folder has the state in
which the call began, each sum by the name of what it is of, and the sum that is under way.
"""

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import errors
from .digests import fingerprint

#: Seconds between two writes of the sum that is under way: what a killed run loses at most.
EVERY = 5.0

STATE, DONE, UNDER_WAY = "state.pt", ".done.pt", ".under_way.pt"


class KeptSums:
    """The sums of one call of one process.

    :param folder: which is made, and goes when the call has ended; the one above it stays.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        #: The state in which an interrupted call began; None if there was none.
        self.state: Mapping[str, Any] | None = self._read(STATE)
        sums = set(folder.glob("*.pt")) - {folder / STATE}
        self._is_found = not sums

    def begin(self, state: Mapping[str, Any]) -> None:
        """Keep the state in which a call begins."""
        self._write(STATE, state)

    def sum_of(self, name: str) -> "KeptSum":
        """One sum.

        :param name: of what it is, which includes where it is taken.
        :raises CheckpointError: if the folder has the sums of another call.
        """
        done, under_way = self._read(name + DONE), self._read(name + UNDER_WAY)
        if done is None and under_way is None and not self._is_found:
            raise errors.CheckpointError(
                f"the folder {str(self.folder)!r} keeps the sums of an interrupted call, which "
                "this one is not: another method, other options, or another number of processes. "
                "Mend: make the same call again; or delete the folder to begin anew."
            )
        self._is_found = True
        return KeptSum(self, name, done, under_way)

    def end(self) -> None:
        """Remove what was kept.

        The folder above stays: another process may be about to make its own in it.
        """
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write(self, name: str, what: Any) -> None:
        """Write a file in one go: a kill leaves the old one or the new one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / f"{name}.new"
        torch.save(what, new)
        os.replace(new, self.folder / name)

    def _read(self, name: str) -> Any:
        path = self.folder / name
        return torch.load(path, weights_only=True) if path.exists() else None


class KeptSum:
    """One sum over parts, as far as it is known.

    :param done: the sum, if it is.
    :param under_way: what was kept of it, if it is not.
    """

    def __init__(
        self, kept: KeptSums, name: str, done: Mapping[str, Any] | None, under_way: Any
    ) -> None:
        self._kept, self._name = kept, name
        #: Whether all parts have been added.
        self.is_done = done is not None
        known = done or under_way or {"total": None, "parts": []}
        #: The sum so far.
        self.total: Tensor | None = known["total"]
        self._parts: list[str] = list(known["parts"])
        self._known = len(self._parts)
        self._read = ""
        self._is_spoilt = False
        self._written = time.monotonic()

    @property
    def known(self) -> int:
        """How many parts it had when it was interrupted."""
        return self._known

    def has(self, number: int, call: Any) -> bool:
        """Whether a part has been added.

        :raises CheckpointError: if that was another part of the data.
        """
        name = fingerprint(call)
        if number >= self._known:
            self._read = name
            return False
        if self._parts[number] != name:
            raise errors.CheckpointError(
                f"part {number} of the data, counted from 0, is not the one that was added before "
                "the call was interrupted: the data changed, or their order. Mend: the same parts "
                "in the same order (no shuffle=True); or delete the folder "
                f"{str(self._kept.folder)!r} to begin anew."
            )
        return True

    def add(self, total: Tensor) -> None:
        """Keep the sum with one part more."""
        self._is_spoilt |= not bool(total.isfinite().all())
        if self._is_spoilt:  # once the data are mended, the sum up to there is still right
            return
        self.total = total
        self._parts.append(self._read)
        if time.monotonic() - self._written >= EVERY:
            self._keep(UNDER_WAY)
            self._written = time.monotonic()

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Keep the sum as far as it is, if an error or an interrupt passes."""
        try:
            yield
        except BaseException:
            if len(self._parts) > self.known:
                self._keep(UNDER_WAY)
            raise

    def end(self) -> None:
        """Keep the sum of all parts, if it is finite; else that of those before."""
        if self._is_spoilt:
            self._keep(UNDER_WAY)
        elif not self.is_done:
            self._keep(DONE)
            self.is_done = True

    def _keep(self, ending: str) -> None:
        if self.total is not None:
            self._kept._write(self._name + ending, {"total": self.total, "parts": self._parts})
