# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Latents as lifted tensors, polynomials of them, and their expectations under q."""
