# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The conjugate surrogate of the loss that a step minimises, to evaluate and to plot."""

from .making import surrogate_of
from .surrogate import Surrogate

__all__ = ["Surrogate", "surrogate_of"]
