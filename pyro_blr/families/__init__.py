# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Exponential families in natural and mean coordinates, and their registry."""

from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.bernoulli import Bernoulli
from pyro_blr.families.beta import Beta
from pyro_blr.families.categorical import Categorical
from pyro_blr.families.dirichlet import Dirichlet
from pyro_blr.families.gamma import Gamma
from pyro_blr.families.multivariate_normal import MultivariateNormal
from pyro_blr.families.normal import Normal
from pyro_blr.families.registry import (
    find_family,
    get_family,
    register_family,
    registered_families,
)

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "Dirichlet",
    "ExponentialFamily",
    "Gamma",
    "MeanParams",
    "MultivariateNormal",
    "Natural",
    "Normal",
    "find_family",
    "get_family",
    "register_family",
    "registered_families",
]
