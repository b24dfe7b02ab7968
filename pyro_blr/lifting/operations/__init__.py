# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Torch operations that keep a polynomial, one file a kind.

A handler takes what the torch function takes, with a
:class:`~pyro_blr.lifting.polynomial.Polynomial` in the place of each lifted tensor, and returns
polynomials, or raises ``NotPolynomial``. An operation that only moves elements is one row of the
table in ``moving``, one that is linear one row of the table in ``linear``.
"""

from . import (
    arithmetic,
    contraction,
    indexing,
    linear,
    moving,
    reductions,
    scattering,
    shape,
)

__all__ = [
    "arithmetic",
    "contraction",
    "indexing",
    "linear",
    "moving",
    "reductions",
    "scattering",
    "shape",
]
