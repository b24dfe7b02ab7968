# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The rule for guides whose latents cannot be lifted: by draws, point masses, mixtures."""

from .choice import choose
from .mixture import MixtureRule
from .protocol import Rule

__all__ = ["MixtureRule", "Rule", "choose"]
