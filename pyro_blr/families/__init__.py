# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Exponential families in natural and mean coordinates, and their registry."""

from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.bernoulli import Bernoulli
from pyro_blr.families.beta import Beta
from pyro_blr.families.categorical import Categorical
from pyro_blr.families.diagonal_normal import DiagonalNormal
from pyro_blr.families.dirichlet import Dirichlet
from pyro_blr.families.gamma import Gamma
from pyro_blr.families.inverse_gamma import InverseGamma
from pyro_blr.families.joint_distributions import (
    NormalGammaDistribution,
    NormalInverseGammaDistribution,
    NormalWishartDistribution,
)
from pyro_blr.families.multivariate_normal import MultivariateNormal
from pyro_blr.families.normal import Normal
from pyro_blr.families.normal_gamma import NormalGamma
from pyro_blr.families.normal_inverse_gamma import NormalInverseGamma
from pyro_blr.families.normal_wishart import NormalWishart
from pyro_blr.families.registry import (
    find_family,
    get_family,
    register_family,
    registered_families,
)
from pyro_blr.families.shared_covariance_normal import SharedCovarianceNormal
from pyro_blr.families.wishart import Wishart

__all__ = [
    "Bernoulli",
    "Beta",
    "Categorical",
    "DiagonalNormal",
    "Dirichlet",
    "ExponentialFamily",
    "Gamma",
    "InverseGamma",
    "MeanParams",
    "MultivariateNormal",
    "Natural",
    "Normal",
    "NormalGamma",
    "NormalGammaDistribution",
    "NormalInverseGamma",
    "NormalInverseGammaDistribution",
    "NormalWishart",
    "NormalWishartDistribution",
    "SharedCovarianceNormal",
    "Wishart",
    "find_family",
    "get_family",
    "register_family",
    "registered_families",
]
