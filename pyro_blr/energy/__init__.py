# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""From one run of a Pyro model to its ELBO: factors, blocks, draws. Nothing here steps."""
