# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Sums over processes that all agree to take, or of which all fail.

Every exchange begins with one frame of a fixed size: for each process whether it failed and what it
is about to exchange, then the numbers, if they fit. So a process that fails anywhere joins the next
exchange of the others with a flag, whatever that exchange is, and all of them raise; and processes
that are about to exchange different things learn of it before a number is mixed up. Numbers that do
not fit into the frame follow it in an exchange of their own.
"""

import hashlib
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as distributed
from torch import Tensor

from . import errors

#: Numbers that a frame has room for: 16 kB are on their way no longer than one number is.
ROOM = 2048


class Alone:
    """One process, which has nothing to exchange."""

    is_first = True
    rank, size = 0, 1

    def total(self, numbers: Tensor, what: str) -> Tensor:
        """The numbers."""
        return numbers

    def of_first(self, numbers: Tensor, what: str) -> Tensor:
        """The numbers."""
        return numbers

    def of_each(self, numbers: Sequence[float], what: str) -> list[list[float]]:
        """The numbers, as those of the one process."""
        return [list(numbers)]

    def agree(self, state: str) -> None:
        """Nothing to agree on."""

    def seed(self, own: int) -> int:
        """The seed."""
        return own

    def union(self, own: Sequence[str], what: str) -> list[str]:
        """The names, sorted."""
        return sorted(own)

    def fail(self, error: Exception) -> Exception:
        """The error."""
        return error


class Together:
    """The processes of a group, each with its own part of the data.

    :param group: of ``torch.distributed``.
    """

    def __init__(self, group: Any) -> None:
        # Not kept: gloo ends the program by an abort where a group outlives destroy_process_group.
        self._group = weakref.ref(group)
        self.rank = distributed.get_rank(group)
        self.size = distributed.get_world_size(group)
        uses_gpu = "nccl" in str(distributed.get_backend(group))
        self._device = torch.device("cuda", torch.cuda.current_device()) if uses_gpu else "cpu"

    @property
    def group(self) -> Any:
        """The group.

        :raises ProcessError: if it was destroyed.
        """
        group = self._group()
        if group is None:
            raise errors.ProcessError(
                "the group of processes was destroyed. Mend: destroy_process_group() after the "
                "last call that needs the others; a BLR of one process goes on from "
                "blr.state_dict()."
            )
        return group

    @property
    def is_first(self) -> bool:
        """Whether this is the process that counts what all parts share."""
        return self.rank == 0

    def total(self, numbers: Tensor, what: str) -> Tensor:
        """The sum of the numbers of all processes, bit for bit the same on each of them.

        :param numbers: # shape: (n,), float64
        :param what: is summed; the same on every process, or all raise.
        :raises ProcessError: on every process, if one failed or is elsewhere, or is gone.
        """
        frame = self._frame(f"{what} ({len(numbers)} numbers)")
        fits = len(numbers) <= ROOM
        if fits:
            frame[2 * self.size : 2 * self.size + len(numbers)] = numbers
        summed = self._exchange(frame)
        self._check(summed, f"{what} ({len(numbers)} numbers)")
        if fits:
            return summed[2 * self.size : 2 * self.size + len(numbers)].to(numbers.device)
        return self._exchange(numbers.clone()).to(numbers.device)

    def of_first(self, numbers: Tensor, what: str) -> Tensor:
        """The numbers of the first process, on every process."""
        return self.total(numbers if self.is_first else torch.zeros_like(numbers), what)

    def of_each(self, numbers: Sequence[float], what: str) -> list[list[float]]:
        """The numbers of each process, by rank."""
        table = torch.zeros(self.size, len(numbers), dtype=torch.float64)
        table[self.rank] = torch.tensor(numbers, dtype=torch.float64)
        found: list[list[float]] = self.total(table.reshape(-1), what).reshape_as(table).tolist()
        return found

    def agree(self, state: str) -> None:
        """Go on only if every process is in the same state.

        :param state: in words; processes whose words differ raise.
        :raises ProcessError: on every process, naming the words.
        """
        self.total(torch.zeros(0, dtype=torch.float64), state)

    def seed(self, own: int) -> int:
        """The first process's seed, of at most 62 bits."""
        halves = torch.tensor([own >> 31, own & (2**31 - 1)], dtype=torch.float64)
        high, low = (int(n) for n in self.of_first(halves, "seed").tolist())
        return (high << 31) | low

    def union(self, own: Sequence[str], what: str) -> list[str]:
        """The names that any process has, sorted."""
        counts = self.of_each([len(own)], what)
        if not any(count for (count,) in counts):
            return []
        return sorted({name for names in self._gathered(list(own)) for name in names})

    def fail(self, error: Exception) -> Exception:
        """Let all processes know of an error of this one, if they do not; what is to be raised.

        Where all that failed did so by one class of :mod:`~pyro_blr.errors`, all raise that class:
        what is done about it is then the same everywhere.
        """
        if _is_told(error):
            return error
        frame = self._frame("")
        frame[self.rank] = 1.0
        try:
            self._exchange(frame)
            raised = self._failure(error)
        except errors.ProcessError:  # the others are gone, maybe since they failed as well
            return _told(error)
        return raised if isinstance(error, errors.BLRError) else _told(error)

    def _frame(self, what: str) -> Tensor:
        frame = torch.zeros(2 * self.size + ROOM, dtype=torch.float64)
        frame[self.size + self.rank] = _code(what)
        return frame

    def _check(self, summed: Tensor, what: str) -> None:
        """Raise if some process failed, or is about to exchange something else."""
        head = summed[: 2 * self.size].tolist()
        if any(head[: self.size]):
            raise self._failure(None)
        if len(set(head[self.size :])) > 1:
            raise _told(_apart(self._gathered(what)))

    def _failure(self, own: Exception | None) -> Exception:
        """The error that this process raises for those of all."""
        mine = None if own is None else (type(own).__name__, str(own))
        found = [(r, e) for r, e in enumerate(self._gathered(mine)) if e is not None]
        listed = "; ".join(f"process {r}: {kind}: {text}" for r, (kind, text) in found)
        kinds = {kind for _, (kind, _) in found}
        kind = getattr(errors, kinds.pop(), None) if len(kinds) == 1 else None
        if not (isinstance(kind, type) and issubclass(kind, errors.BLRError)):
            kind = errors.ProcessError
        if own is not None and type(own) is kind:
            return _told(own)
        return _told(kind(f"no process goes on, since of {self.size} failed {listed}"))

    def _gathered(self, thing: Any) -> list[Any]:
        things: list[Any] = [None] * self.size
        group = self.group
        try:
            distributed.all_gather_object(things, thing, group=group)
        except RuntimeError as error:
            raise _told(_gone(self, error)) from error
        return things

    def _exchange(self, numbers: Tensor) -> Tensor:
        moved, group = numbers.to(self._device), self.group
        try:
            distributed.all_reduce(moved, group=group)
        except (RuntimeError, ValueError) as error:
            raise _told(_gone(self, error)) from error
        return moved if moved.device == numbers.device else moved.to(numbers.device)


@contextmanager
def known_to_all(together: Alone | Together) -> Iterator[None]:
    """What fails here fails on all processes."""
    try:
        yield
    except Exception as error:
        raised = together.fail(error)
        if raised is error:
            raise
        raise raised from error


#: Where an error says that all processes know of it.
_TOLD = "_is_known_to_all_processes"


def _told(error: Exception) -> Exception:
    """An error that all processes know of.

    The error says so itself, and not the group: who catches it and tries again may meet another
    one, of which the others, who try again too, have yet to be told.
    """
    vars(error)[_TOLD] = True
    return error


def _is_told(error: BaseException | None) -> bool:
    """Whether all processes know of an error, or of what it was raised from."""
    return error is not None and (_TOLD in vars(error) or _is_told(error.__cause__))


def _code(what: str) -> float:
    """Words as a number that a float64 holds exactly."""
    return float(int.from_bytes(hashlib.blake2b(what.encode(), digest_size=6).digest(), "big"))


def _apart(words: Sequence[str]) -> errors.ProcessError:
    listed = "\n  ".join(f"process {rank}: {what}" for rank, what in enumerate(words))
    return errors.ProcessError(
        f"the processes are not at the same place of the same run:\n  {listed}\nMend: run the same "
        "program on each of them, with the same model, options and calls of BLR in the same order; "
        "only the rows of the data differ."
    )


def _gone(together: Together, error: Exception) -> errors.ProcessError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return errors.ProcessError(
        f"process {together.rank} of {together.size} lost the others: one of them was killed, "
        f"ended before, or did not answer in time ({first}). Mend: see what the others printed; "
        "start all of them again and go on from the last saved state, blr.load_state_dict(...). "
        "Where a step takes long, init_process_group(..., timeout=...)."
    )
