# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Independent ways to know the right answer: closed forms, designs, quadrature, Monte Carlo."""
