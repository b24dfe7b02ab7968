# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Torch operations that keep a polynomial, one file a kind. A new operation is one function here.

A handler takes what the torch function takes, with a
:class:`~pyro_blr.lifting.polynomial.Polynomial` in the place of each lifted tensor, and returns
polynomials, or raises ``NotPolynomial``.
"""

from . import arithmetic, contraction, indexing, shape

__all__ = ["arithmetic", "contraction", "indexing", "shape"]
