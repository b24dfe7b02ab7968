# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How far a guide is from the posterior, measured."""

from .bounds import ErrorBounds, divergence_bound, error_bounds
from .calibration import Calibration
from .moments import Moments, moments
from .pareto import PSIS, khat_limit, psis
from .simulation import sbc

__all__ = [
    "PSIS",
    "Calibration",
    "ErrorBounds",
    "Moments",
    "divergence_bound",
    "error_bounds",
    "khat_limit",
    "moments",
    "psis",
    "sbc",
]
