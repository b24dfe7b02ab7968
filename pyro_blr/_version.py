# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The version, alone in a file so that a build reads it without importing torch."""

__version__ = "0.1.0"
