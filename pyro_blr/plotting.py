# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Matplotlib, asked for when something is drawn."""

from typing import Any

from . import errors


def pyplot() -> Any:
    """Matplotlib's pyplot.

    :raises ArgumentError: if matplotlib is missing.
    """
    try:
        from matplotlib import pyplot as plt
    except ImportError as error:
        if error.name not in (
            None,
            "matplotlib",
        ):  # it is there, but broken: its own error says how
            raise
        raise errors.ArgumentError(
            "pictures need matplotlib, which is not installed. Mend: pip install matplotlib."
        ) from error
    return plt
