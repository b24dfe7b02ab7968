# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Step sizes, cone safety, line search, the certificate of convergence; nothing knows Pyro."""
