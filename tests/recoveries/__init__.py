# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Algorithms that the rule recovers, each beside an implementation of its own."""
