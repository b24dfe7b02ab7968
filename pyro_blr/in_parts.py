# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What an engine does otherwise where its data are in parts."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from . import errors
from .chunks import holds_parts, parts_in
from .parted import Parted
from .processes import known_to_all
from .state import Resumable

NOTHING: Mapping[str, Any] = {}


class InParts(Resumable):
    """An engine whose data may be in parts, over processes if there are several."""

    _parted: Parted

    @contextmanager
    def _known_to_all(self) -> Iterator[None]:
        """An error of one process ends the call on all of them."""
        with known_to_all(self._parted.together):
            yield

    def _is_parted(self, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] = NOTHING) -> bool:
        """Whether the data are spread over processes, or those of a call read in parts."""
        return not self._parted.is_alone or parts_in(args, kwargs) is not None

    def _in_one_place(
        self, what: str, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] = NOTHING
    ) -> None:
        """Refuse what is not answered where the data are in parts.

        :param what: the method or function that was called.
        :raises ArgumentError: saying how it is had nevertheless.
        """
        if not self._parted.is_alone:
            raise errors.ArgumentError(
                f"{what} needs all data in one place, and those of this BLR are on several "
                "processes. Mend: load the state into a BLR without process_group, "
                "other.load_state_dict(blr.state_dict()), and give it the data that it is to look "
                "at."
            )
        if holds_parts(args, kwargs):
            raise errors.ArgumentError(
                f"{what} needs all data in one place, and Parts are read one after the other. "
                f"Mend: give {what} the model's arguments in their place, with the data to look at."
            )

    def __reduce__(self) -> tuple[Any, ...]:
        self._in_one_place("a pickle or a copy")
        return super().__reduce__()

    def load_state_dict(self, state: Mapping[str, Any], *, with_random: bool = True) -> None:
        super().load_state_dict(state, with_random=with_random)
        self._parted.has_started = self._parted.is_alone
