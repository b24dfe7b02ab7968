# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Step sizes, cone safety, line search and the certificate of convergence. Nothing here knows Pyro."""
