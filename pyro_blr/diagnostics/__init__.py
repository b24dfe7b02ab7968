# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How far a guide is from the posterior, measured."""

from .bounds import ErrorBounds, divergence_bound, error_bounds
from .calibration import Calibration
from .moments import Moments, moments
from .nuts import Comparison, against_nuts
from .pareto import PSIS, khat_limit, psis
from .pictures import plot_history
from .report import Report, report
from .simulation import sbc
from .site_khat import SiteKhat, site_khat

__all__ = [
    "PSIS",
    "Calibration",
    "Comparison",
    "ErrorBounds",
    "Moments",
    "Report",
    "SiteKhat",
    "against_nuts",
    "divergence_bound",
    "error_bounds",
    "khat_limit",
    "moments",
    "plot_history",
    "psis",
    "report",
    "sbc",
    "site_khat",
]
