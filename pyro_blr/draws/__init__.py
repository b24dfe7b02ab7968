# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Draws of q with the log densities of model and guide at each, for any fit of a Pyro model."""

from .draws import Draws, draws_of
from .fitted import Fitted, fitted
from .predictive import Predictions, predictive, prior

__all__ = ["Draws", "Fitted", "Predictions", "draws_of", "fitted", "predictive", "prior"]
