# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Estimates from draws of q against quadrature and enumeration, by z-tests over fixed seeds."""
