# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Estimates of E_q[f] and of its natural gradient from draws of q.

For a Gaussian q with mean m and covariance C (arXiv 2107.04562, Section 1.4.3)

    dE_q[f]/dm = E_q[grad f]  (Bonnet),      dE_q[f]/dC = E_q[hess f] / 2  (Price),

so an estimate is a mean of gradients and of Hessians at draws, however f depends on z.
"""

from .bonnet_price import Variable, bonnet_price
from .points import gaussian_points
from .score import score_function

__all__ = ["Variable", "bonnet_price", "gaussian_points", "score_function"]
