# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""What an option of a diagonal Gaussian is where a group has none: that of IVON and VOGN."""

from collections.abc import Mapping
from typing import Any

#: Where gradients are taken; the power of precisions that divide a step, and what is added to it;
#: whether the Hessian is divided by ``1 - b2^t`` there.
ABSENT: Mapping[str, Any] = {"at": "draw", "power": 1.0, "damping": 0.0, "debias_hessian": False}


def option_of(group: Mapping[str, Any], name: str) -> Any:
    """An option of a group of parameters."""
    return group.get(name, ABSENT[name])
