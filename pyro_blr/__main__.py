# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""``python -m pyro_blr``."""

import sys

from .command_line import main

if __name__ == "__main__":
    sys.exit(main())
