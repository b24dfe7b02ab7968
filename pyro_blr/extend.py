# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Adding log densities and torch operations of your own to the tables of the exact tier.

Entries hold for the whole process, and for models that are traced after them. A family is added by
:func:`pyro_blr.families.register_family`.
"""

from .lifting.densities import of_constant, register_density
from .lifting.operations.linear import register_linear
from .lifting.operations.moving import register_moving
from .lifting.operations.register import operation, register_elementwise
from .lifting.polynomial import Polynomial, polynomial
from .lifting.terms import NotPolynomial

__all__ = [
    "NotPolynomial",
    "Polynomial",
    "of_constant",
    "operation",
    "polynomial",
    "register_density",
    "register_elementwise",
    "register_linear",
    "register_moving",
]
