# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The rule for guides whose latents cannot be lifted: known by their draws, or point masses."""

from .choice import choose
from .protocol import Rule

__all__ = ["Rule", "choose"]
