# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The ten problems by name."""

from collections.abc import Callable
from pathlib import Path

from . import discrete, processes, regressions
from .problem import Problem

Maker = Callable[[Path | None, bool], Problem]
#: Each is given the folder of the data that are not packaged, and whether a small size will do.
PROBLEMS: dict[str, Maker] = {
    "diabetes": regressions.diabetes,
    "a1a": regressions.logistic,
    "radon": regressions.radon,
    "eight_schools": regressions.eight_schools,
    "election88": regressions.election88,
    "mixture": discrete.mixture,
    "topics": discrete.topic_model,
    "hidden_markov": discrete.hidden_markov,
    "counts": processes.counts,
    "banana": processes.banana,
}


def load(name: str, data: Path | None, tiny: bool) -> Problem:
    """A problem with its data.

    :raises Skipped: where the data are not there.
    """
    return PROBLEMS[name](data, tiny)
