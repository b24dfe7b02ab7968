# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Estimates of E_q[f] and of its natural gradient from draws of q.

For a Gaussian q with mean m and covariance C (arXiv 2107.04562, Section 1.4.3)

    dE_q[f]/dm = E_q[grad f]  (Bonnet),      dE_q[f]/dC = E_q[hess f] / 2  (Price),

so an estimate is a mean of gradients and of Hessians at draws, however f depends on z.
"""

from .bonnet_price import Curvature, MeanDerivatives, Variable, bonnet_price
from .gauss_newton import GaussNewton, Outputs
from .hessians import exact_hessian, probed_hessian, stein_hessian
from .points import gaussian_points
from .score import score_function

__all__ = [
    "Curvature",
    "GaussNewton",
    "MeanDerivatives",
    "Outputs",
    "Variable",
    "bonnet_price",
    "exact_hessian",
    "gaussian_points",
    "probed_hessian",
    "score_function",
    "stein_hessian",
]
