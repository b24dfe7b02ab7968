# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Exponential families in natural and mean coordinates, and their registry."""

from pyro_blr.families.arrow_distribution import ArrowNormalDistribution
from pyro_blr.families.arrow_normal import ArrowNormal
from pyro_blr.families.base import ExponentialFamily, MeanParams, Natural
from pyro_blr.families.bernoulli import Bernoulli
from pyro_blr.families.beta import Beta
from pyro_blr.families.binomial import Binomial
from pyro_blr.families.categorical import Categorical
from pyro_blr.families.chain_distribution import ChainNormalDistribution
from pyro_blr.families.chain_normal import ChainNormal
from pyro_blr.families.diagonal_normal import DiagonalNormal
from pyro_blr.families.dirichlet import Dirichlet
from pyro_blr.families.exponential import Exponential
from pyro_blr.families.fixed_scale_normal import FixedScaleNormal
from pyro_blr.families.gamma import Gamma
from pyro_blr.families.geometric import Geometric
from pyro_blr.families.inverse_gamma import InverseGamma
from pyro_blr.families.joint_distributions import (
    NormalGammaDistribution,
    NormalInverseGammaDistribution,
    NormalWishartDistribution,
)
from pyro_blr.families.log_normal import LogNormal
from pyro_blr.families.multinomial import Multinomial
from pyro_blr.families.multivariate_normal import MultivariateNormal
from pyro_blr.families.negative_binomial import NegativeBinomial
from pyro_blr.families.normal import Normal
from pyro_blr.families.normal_gamma import NormalGamma
from pyro_blr.families.normal_inverse_gamma import NormalInverseGamma
from pyro_blr.families.normal_wishart import NormalWishart
from pyro_blr.families.poisson import Poisson
from pyro_blr.families.registry import (
    find_family,
    get_family,
    register_family,
    registered_families,
)
from pyro_blr.families.shared_covariance_normal import SharedCovarianceNormal
from pyro_blr.families.sign_bernoulli import SignBernoulli
from pyro_blr.families.sign_distribution import SignBernoulliDistribution
from pyro_blr.families.von_mises import VonMises
from pyro_blr.families.wishart import Wishart, WishartDistribution

__all__ = [
    "ArrowNormal",
    "ArrowNormalDistribution",
    "Bernoulli",
    "Beta",
    "Binomial",
    "Categorical",
    "ChainNormal",
    "ChainNormalDistribution",
    "DiagonalNormal",
    "Dirichlet",
    "Exponential",
    "ExponentialFamily",
    "FixedScaleNormal",
    "Gamma",
    "Geometric",
    "InverseGamma",
    "LogNormal",
    "MeanParams",
    "Multinomial",
    "MultivariateNormal",
    "Natural",
    "NegativeBinomial",
    "Normal",
    "NormalGamma",
    "NormalGammaDistribution",
    "NormalInverseGamma",
    "NormalInverseGammaDistribution",
    "NormalWishart",
    "NormalWishartDistribution",
    "Poisson",
    "SharedCovarianceNormal",
    "SignBernoulli",
    "SignBernoulliDistribution",
    "VonMises",
    "Wishart",
    "WishartDistribution",
    "find_family",
    "get_family",
    "register_family",
    "registered_families",
]
