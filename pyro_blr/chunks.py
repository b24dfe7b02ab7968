# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Data that are read part by part, one of which is in memory at a time."""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm.auto import tqdm

from . import errors
from .kept_sums import KeptSums
from .random_state import same_random_state

Call = tuple[tuple[Any, ...], dict[str, Any]]


class Parts:
    """All data of a model in parts, in the place of its arguments: ``blr.fit(Parts(loader))``.

    Each evaluation reads all parts and adds up their messages, so the posterior is that of all
    rows, whatever the parts are, and one part is in memory at a time. A conjugate model takes one
    pass. The plate of the observed sites has the size of the part, and nothing is scaled up: that
    is what a model says that is written for all of its data, ``pyro.plate("data", len(y))``.

    Example::

        from torch.utils.data import DataLoader, TensorDataset

        loader = DataLoader(TensorDataset(X, y), batch_size=100_000)
        fit = blr.fit(Parts(loader), progress=True)

    :param batches: what can be iterated over again and again, such as a ``DataLoader``; or a
        function that returns such an iterator.
    :param to_args: from a batch to the model's arguments: a tuple of them, or a dict of keywords. A
        tensor is the one argument, a list or a tuple its elements if left out.
    :param checkpoint: a folder in which a call keeps what it has added up, until it returns: the
        same call in a new process goes on with the part at which the first was killed. Each of
        several processes has a folder of its own in it. Parts must come in the same order.
    :raises ArgumentError: for batches that can be read once only, or a checkpoint that is a file.
    """

    def __init__(
        self,
        batches: Iterable[Any] | Callable[[], Iterable[Any]],
        to_args: Callable[[Any], Any] | None = None,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
    ) -> None:
        is_read_again = isinstance(batches, Iterable) and not isinstance(batches, Iterator)
        if not (is_read_again or callable(batches)):
            raise errors.ArgumentError(
                f"the parts of the data are read again for each pass, and {type(batches).__name__} "
                "can be read once, or not at all. Mend: Parts(DataLoader(...)), a list, or a "
                "function that returns a new iterator, Parts(lambda: read(path))."
            )
        self.batches = batches
        self.to_args = to_args
        self.checkpoint = None if checkpoint is None else Path(checkpoint)
        if self.checkpoint is not None and self.checkpoint.is_file():
            raise errors.ArgumentError(
                f"checkpoint = {str(checkpoint)!r} is a file. Mend: a folder, which is made if "
                "there is none."
            )
        #: What the call that is under way has added up.
        self.kept: KeptSums | None = None
        self._count: int | None = None

    def __repr__(self) -> str:
        return f"Parts({type(self.batches).__name__})"

    @property
    def count(self) -> int | None:
        """How many parts there are, where that is known before they are read."""
        try:
            return len(self.batches)  # type: ignore[arg-type]
        except TypeError:
            return self._count

    def first(self) -> Call:
        """The model's arguments for the first part.

        :raises ArgumentError: if there is none.
        """
        with closing(self.calls()) as calls:
            return next(calls)[1]

    def calls(self, shown: bool = False, known: int = 0) -> Generator[tuple[int, Call], None, None]:
        """The number of each part, and the model's arguments for it: one pass.

        The generators of random numbers are then as before: a loader draws from them even where it
        does not shuffle, and passes are no part of what a run draws.

        :param shown: whether there is a progress bar.
        :param known: how many parts need not be read, but for the last of them; those that come one
            after the other are.
        :raises ArgumentError: if there is no part, or another number of them than before.
        """
        with same_random_state():
            count, batches = self._read(known)
            bar = tqdm(
                *(batches, None, self.count, False),
                **{"disable": not shown, "unit": " parts", "initial": count},
            )
            with closing(bar):
                for batch in bar:
                    yield count, self._call_of(batch)
                    count += 1
        self._check(count)

    def _read(self, known: int) -> tuple[int, Iterable[Any]]:
        """The number of the first part that is read, and the parts from there."""
        batches: Any = self.batches() if callable(self.batches) else self.batches
        if known > 1 and hasattr(batches, "__getitem__") and hasattr(batches, "__len__"):
            first = known - 1
            return first, (batches[number] for number in range(first, len(batches)))
        return 0, batches

    @contextmanager
    def in_call(self) -> Iterator[None]:
        """What was added up is kept until a call has returned."""
        try:
            yield
            if self.kept is not None:
                self.kept.end()
        finally:
            self.kept = None

    def kept_for(self, rank: int, size: int) -> tuple["KeptSums | None", bool]:
        """Where a call keeps its sums, if it does, and whether it begins."""
        if self.checkpoint is None or self.kept is not None:
            return self.kept, False
        self.kept = KeptSums(self.checkpoint / f"process-{rank}-of-{size}")
        return self.kept, True

    def _check(self, count: int) -> None:
        if not count:
            raise errors.ArgumentError(
                f"{self!r} has no parts: a pass over it ended at once. Mend: a loader that begins "
                "anew each time it is iterated over, with data in it."
            )
        if self._count not in (None, count):
            raise errors.ArgumentError(
                f"{self!r} had {self._count} parts in the last pass, and now {count}: the ELBO "
                "would be another one. Mend: the same data in each pass."
            )
        self._count = count

    def _call_of(self, batch: Any) -> Call:
        given = batch if self.to_args is None else self.to_args(batch)
        if isinstance(given, Mapping):
            return (), dict(given)
        if isinstance(given, list | tuple):
            return tuple(given), {}
        if isinstance(given, Tensor) or self.to_args is None:
            return (given,), {}
        raise errors.ArgumentError(
            f"to_args returned {type(given).__name__}. Mend: a tuple of the model's arguments, or "
            "a dict of its keywords."
        )


def holds_parts(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Whether there are parts among arguments, alone or beside others."""
    return any(isinstance(a, Parts) for a in (*args, *kwargs.values()))


def parts_in(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Parts | None:
    """The parts that stand in the place of a model's arguments, if they do.

    :raises ArgumentError: for parts beside other arguments.
    """
    if not holds_parts(args, kwargs):
        return None
    if len(args) == 1 and not kwargs:
        parts: Parts = args[0]
        return parts
    raise errors.ArgumentError(
        "Parts stand in the place of all of the model's arguments. Mend: blr.fit(Parts(loader, "
        "to_args)), where to_args returns what the model takes for a batch."
    )


def first_call(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], Any]:
    """The model's arguments; of data in parts those of the first part."""
    parts = parts_in(args, kwargs)
    return (args, kwargs) if parts is None else parts.first()


@contextmanager
def in_part(number: int) -> Iterator[None]:
    """Say of an error in which part of the data it is."""
    try:
        yield
    except errors.BLRError as error:
        raise type(error)(f"in part {number} of the data, counted from 0: {error}") from error
    except Exception as error:
        error.add_note(f"in part {number} of the data, counted from 0")
        raise
