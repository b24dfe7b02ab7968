# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""A run that is stopped and resumed is the run that was not stopped."""
