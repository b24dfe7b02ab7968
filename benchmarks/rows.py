# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What a benchmark measures: a headline figure, the quality that goes with it, and their limits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Check:
    """A figure and its limit; without a limit it only informs.

    :param str sense: "at most" or "at least", of the limit.
    """

    name: str
    value: float
    limit: float | None = None
    sense: str = "at most"

    @property
    def holds(self) -> bool | None:
        """Whether the limit is kept; None where there is none. NaN keeps no limit."""
        if self.limit is None:
            return None
        return self.value <= self.limit if self.sense == "at most" else self.value >= self.limit

    def __str__(self) -> str:
        text = f"{self.name} {self.value:.4g}"
        return text if self.limit is None else f"{text} ({self.sense} {self.limit:g})"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    :param str benchmark: the module that made it.
    :param Check headline: what the row is about.
    :param tuple quality: how good the answers are that were timed; a fast wrong answer is a miss.
    :param dict seconds: every time that was measured, as it was measured.
    """

    benchmark: str
    name: str
    headline: Check
    quality: Sequence[Check] = ()
    seconds: dict[str, list[float]] = field(default_factory=dict)
    note: str = ""

    @property
    def verdict(self) -> str:
        """Of the headline and all of the quality; a dash where nothing has a limit."""
        held = [c.holds for c in (self.headline, *self.quality) if c.holds is not None]
        if not held:
            return "-"
        return "pass" if all(held) else "MISS"


@dataclass(frozen=True)
class Settings:
    """What every benchmark is told.

    :param int threads: threads of torch and of NumPy's BLAS, on both sides of every ratio.
    :param Path data: the folder of the data sets that are not packaged, or None.
    :param bool tiny: sizes for a test of the code; the figures mean nothing then.
    :param bool fresh: measure anew what is kept with the code because it takes hours.
    :param tuple only: of the ten problems, by name; all if empty.
    :param float seconds: the most that a run of a peer with a learning rate may take there.
    """

    threads: int = 1
    data: Path | None = None
    tiny: bool = False
    fresh: bool = False
    only: tuple[str, ...] = ()
    seconds: float = 4.0


class Skipped(Exception):
    """Why a benchmark did not run; says what it needs."""
