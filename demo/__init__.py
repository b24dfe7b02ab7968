# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""``make demo``: SVI and BLR side by side on real data."""
