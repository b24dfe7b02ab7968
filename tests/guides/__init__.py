# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Guides of Pyro and guides written by hand, as they are."""
