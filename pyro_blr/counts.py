# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Whole numbers among arguments."""

from typing import Any

import numpy as np


def is_count(value: Any, least: int = 1) -> bool:
    """Whether it is a whole number, Python's or NumPy's, of at least so much; True is none."""
    is_whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    return is_whole and bool(value >= least)
