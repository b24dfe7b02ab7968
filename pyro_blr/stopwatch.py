# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Where time goes: every moment between start and stop belongs to exactly one part."""

import functools
import time
from collections.abc import Callable
from typing import Any

import torch


class Stopwatch:
    """Times of parts, lap by lap.

    Functions are wrapped by :meth:`timed`; what runs inside of one belongs to it, whatever else it
    calls, and what runs in none of them to ``rest``. So the parts sum to the whole.

    :param str rest: the name of what no wrapped function takes.
    """

    def __init__(self, rest: str) -> None:
        self.rest = rest
        self.laps: list[dict[str, float]] = []
        self.total = 0.0
        self._part = rest
        self._is_running = False
        self._began = self._since = 0.0

    def start(self) -> None:
        """Begin with the first lap."""
        self.laps = [{}]
        self._began = self._since = now()
        self._is_running = True

    def stop(self) -> None:
        """End the last lap; the total is measured from start to stop, beside the parts."""
        self._switch(self.rest)
        self.total = self._since - self._began
        self._is_running = False

    def lap(self) -> None:
        """Begin a new lap."""
        if not self._is_running:
            return
        self._switch(self._part)
        self.laps.append({})

    def timed(
        self, part: str | Callable[[], str], function: Callable[..., Any]
    ) -> Callable[..., Any]:
        """A function whose time belongs to a part, unless it runs within another one.

        :param part: its name, or what says it at each call.
        """

        @functools.wraps(function, updated=())  # a module's attributes stay its own
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            if not self._is_running or self._part != self.rest:
                return function(*args, **kwargs)
            self._switch(part if isinstance(part, str) else part())
            try:
                return function(*args, **kwargs)
            finally:
                self._switch(self.rest)

        return wrapped

    def _switch(self, part: str) -> None:
        moment = now()
        lap = self.laps[-1]
        lap[self._part] = lap.get(self._part, 0.0) + (moment - self._since)
        self._part, self._since = part, moment


def now() -> float:
    """Seconds, when all that was given to a GPU is done."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return time.perf_counter()
