# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Guides in natural coordinates."""

from .auto_natural import AutoNatural
from .gaussian_guides import AutoNaturalMultivariateNormal, AutoNaturalNormal
from .low_rank_guide import AutoNaturalLowRankMultivariateNormal
from .mixture_guide import AutoNaturalMixture
from .natural_guide import NaturalGuide
from .natural_param import natural_param

__all__ = [
    "AutoNatural",
    "AutoNaturalLowRankMultivariateNormal",
    "AutoNaturalMixture",
    "AutoNaturalMultivariateNormal",
    "AutoNaturalNormal",
    "NaturalGuide",
    "natural_param",
]
