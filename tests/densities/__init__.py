# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The contract of a log density: its formula, its tier, its expectation."""
