# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Guides in natural coordinates."""

from .auto_natural import AutoNatural

__all__ = ["AutoNatural"]
