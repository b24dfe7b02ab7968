# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Log densities of Pyro distributions as plain formulas over polynomials, one file a group.

A new distribution is one function under :func:`register_density`. Functions of constants go through
:func:`of_constant`, so that data is read once, not at every trace. Tests compare every formula with
the distribution's own ``log_prob``.
"""

from . import categorical, counts, multivariate, positive, real, simplex
from .registry import (
    Density,
    as_given,
    attributes,
    density_of,
    register_density,
    registered,
    takes_arguments_of,
)
from .special import of_constant

__all__ = [
    "Density",
    "as_given",
    "attributes",
    "categorical",
    "counts",
    "density_of",
    "multivariate",
    "of_constant",
    "positive",
    "real",
    "register_density",
    "registered",
    "simplex",
    "takes_arguments_of",
]
