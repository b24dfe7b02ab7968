# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Networks: any module as a Pyro model, and how good predicted probabilities are."""

from .bayesian import BayesianModule, bayesian
from .calibration import accuracy, brier, ece, nll, predictive_entropy
from .weight_posterior import WeightPosterior

__all__ = [
    "BayesianModule",
    "WeightPosterior",
    "accuracy",
    "bayesian",
    "brier",
    "ece",
    "nll",
    "predictive_entropy",
]
