# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Exact inference and learning of conjugated models, given as Pyro models."""

from .chains import Chain, chain
from .conjugation import Conjugated, conjugated
from .learning import Learned
from .posterior import Posterior

__all__ = ["Chain", "Conjugated", "Learned", "Posterior", "chain", "conjugated"]
