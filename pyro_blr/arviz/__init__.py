# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A fit as ArviZ reads it, under each version of ArviZ."""

from .export import GROUPS, to_arviz
from .leave_one_out import loo

__all__ = ["GROUPS", "loo", "to_arviz"]
