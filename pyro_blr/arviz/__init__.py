# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A fit as ArviZ reads it, under each version of ArviZ."""

from .export import GROUPS, to_arviz

__all__ = ["GROUPS", "to_arviz"]
