# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The geometry of latent variable models: metrics of the ELBO and of the evidence.

Information geometry on finite tables (arXiv 2307.11249): what the natural gradient of the ELBO is,
when it moves the visible law as that of the evidence does, and by how much it does not.
"""

from .cylindricity import Cylindricity
from .fields import Cosines, Fields, NaturalGradient
from .finite_model import FiniteModel, saturated
from .flow import Flow, flow
from .jeffreys import ParameterDraws, jeffreys_walk, jeffreys_weighted
from .point import Point
from .pyro_model import EnumeratedModel, from_pyro

__all__ = [
    "Cosines",
    "Cylindricity",
    "EnumeratedModel",
    "Fields",
    "FiniteModel",
    "Flow",
    "NaturalGradient",
    "ParameterDraws",
    "Point",
    "flow",
    "from_pyro",
    "jeffreys_walk",
    "jeffreys_weighted",
    "saturated",
]
