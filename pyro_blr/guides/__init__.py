# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Guides in natural coordinates."""

from .auto_natural import AutoNatural
from .gaussian_guides import AutoNaturalMultivariateNormal, AutoNaturalNormal
from .natural_guide import NaturalGuide

__all__ = ["AutoNatural", "AutoNaturalMultivariateNormal", "AutoNaturalNormal", "NaturalGuide"]
