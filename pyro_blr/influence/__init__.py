# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What each datum did to a posterior: its message, and the posterior without it."""

from .influence import Influence
from .prior import PriorEffect
from .weighting import Reweighted

__all__ = ["Influence", "PriorEffect", "Reweighted"]
