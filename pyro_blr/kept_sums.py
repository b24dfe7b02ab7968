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

#: Numbers of the first part are the same up to this share of the largest: another machine, or other
#: threads, add up float32 in another order.
ALIKE = 1e-6

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
        #: The parts of the last sum that had ended before, and whether those of such sums differ.
        self._before: list[str] = []
        self._is_shuffled = False

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

    def known_again(self, parts: list[str]) -> None:
        """Remember a sum that had ended before the call was interrupted.

        :param parts: the names of its parts.
        """
        self._is_shuffled |= parts != (self._before or parts)
        self._before = parts

    def check_alike(self, parts: list[str]) -> None:
        """Refuse the first sum that ends since then over other parts than those before it.

        Shuffled rows make others in each pass, from the first part on; a row that comes often makes
        some of them again, so that nothing is asked of sums that differed already.

        :param parts: the names of its parts.
        :raises CheckpointError: if the data changed in between.
        """
        before, self._before = self._before or parts, []
        is_shuffled = before[0] not in parts or self._is_shuffled
        if len(before) != len(parts) or not (is_shuffled or sorted(before) == sorted(parts)):
            raise errors.CheckpointError(
                "passes over the data that ended before the call was interrupted had other parts: "
                f"{len(before)} of them, and now there are {len(parts)}, or other rows. Mend: the "
                f"same data as then; or delete the folder {str(self.folder)!r} to begin anew."
            )

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
        try:
            return torch.load(path, weights_only=True) if path.exists() else None
        except OSError:
            raise
        except Exception as error:  # of any kind, where the file is none of torch's
            raise errors.CheckpointError(
                f"the file {str(path)!r} holds no sum that Parts wrote. Mend: delete the folder to "
                "begin anew."
            ) from error


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
        known = done or under_way or {"total": None, "parts": [], "first": None}
        #: The sum so far.
        self.total: Tensor | None = known["total"]
        self._parts: list[str] = list(known["parts"])
        self._first: Tensor | None = known["first"]
        self._known, self._count = len(self._parts), 0
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
        self._count = number + 1
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

    def check_first(self, call: Any, numbers: Tensor) -> None:
        """Refuse to go on with a sum whose first part would now add something else.

        :param call: the first part that was read; of shuffled rows it is another one.
        :param numbers: what it adds.
        :raises CheckpointError: for another model of the same latents.
        """
        assert self._first is not None
        if fingerprint(call) != self._parts[0]:
            return
        apart = (numbers - self._first).abs().max()
        if not bool(apart <= ALIKE * self._first.abs().max()):
            raise errors.CheckpointError(
                "the first part of the data adds other numbers than before the call was "
                "interrupted: the model changed, its priors, its constants or its frozen weights, "
                "or it has random numbers of its own (dropout, say). Mend: the model as it was; or "
                f"delete the folder {str(self._kept.folder)!r} to begin anew."
            )

    def add(self, total: Tensor) -> None:
        """Keep the sum with one part more."""
        self._is_spoilt |= not bool(total.isfinite().all())
        if self._is_spoilt:  # once the data are mended, the sum up to there is still right
            return
        self.total = total
        self._first = total if self._first is None else self._first
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
        """Keep the sum of all parts, if it is finite; else that of those before.

        :raises CheckpointError: if there are fewer parts than it has, or others than in other sums.
        """
        if self._is_spoilt:
            self._keep(UNDER_WAY)
            return
        if not self.is_done and self._count < self._known:
            raise errors.CheckpointError(
                f"{self._known} parts of the data had been added before the call was interrupted, "
                "and now there are fewer. Mend: the same parts in the same order; or delete the "
                f"folder {str(self._kept.folder)!r} to begin anew."
            )
        if self.is_done:
            self._kept.known_again(self._parts)
            return
        self._kept.check_alike(self._parts)
        self._keep(DONE)
        self.is_done = True

    def _keep(self, ending: str) -> None:
        if self.total is not None:
            what = {"total": self.total, "parts": self._parts, "first": self._first}
            self._kept._write(self._name + ending, what)
