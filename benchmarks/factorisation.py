# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Matrix factorisation from single entries of the matrix: a sweep against one of BayesPy."""

from collections.abc import Iterator

from .bayespy_sides import compare
from .bilinear import factorisation
from .rows import Row, Settings

NAME = "factorisation"
LIMIT = 2.0
#: Ratings, users, items, K.
SIZE, TINY = (20_000, 500, 300, 4), (60, 8, 6, 2)


def run(settings: Settings) -> Iterator[Row]:
    """Without biases, and with them."""
    size, limit = (TINY, 0.0) if settings.tiny else (SIZE, LIMIT)
    for biases in (False, True):
        yield compare(NAME, factorisation(*size, biases=biases), limit)
