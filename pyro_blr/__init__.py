# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Bayesian Learning Rule for Pyro, in the place of SVI."""

from pyro_blr import diagnostics, errors, extend, families, geometry, guides, latent, nn, optim
from pyro_blr._version import __version__
from pyro_blr.arviz import to_arviz
from pyro_blr.blr import BLR
from pyro_blr.chunks import Parts

__all__ = [
    "BLR",
    "Parts",
    "__version__",
    "diagnostics",
    "errors",
    "extend",
    "families",
    "geometry",
    "guides",
    "latent",
    "nn",
    "optim",
    "to_arviz",
]
