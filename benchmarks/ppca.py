# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Probabilistic principal components with automatic relevance: a sweep against one of BayesPy."""

from collections.abc import Iterator

from .bayespy_sides import compare
from .bilinear import ppca
from .rows import Row, Settings

NAME = "ppca"
#: N, D and K, and how many times as fast as BayesPy a sweep must be.
SIZES = (((1_000, 20, 5), 1.0), ((20_000, 50, 10), 2.0))
TINY = (((40, 6, 3), 0.0),)


def run(settings: Settings) -> Iterator[Row]:
    """A row for each size."""
    for size, limit in TINY if settings.tiny else SIZES:
        yield compare(NAME, ppca(*size), limit)
