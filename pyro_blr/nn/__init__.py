# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Networks: how good their predicted probabilities are."""

from .calibration import accuracy, brier, ece, nll, predictive_entropy

__all__ = ["accuracy", "brier", "ece", "nll", "predictive_entropy"]
