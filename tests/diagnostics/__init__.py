# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""How far q is from the posterior is measured right, where the truth is known."""
