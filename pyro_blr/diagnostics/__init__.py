# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How far a guide is from the posterior, measured."""

from .pareto import PSIS, khat_limit, psis

__all__ = ["PSIS", "khat_limit", "psis"]
