# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The unconstrained leaf of a parameter's value."""

from typing import Any

from torch import Tensor


def leaf_of(value: Any) -> Tensor:
    """The unconstrained tensor of a parameter's value, as an optimiser would move it.

    Under a subsampled plate the value is the subsample's rows, and the leaf has all of them.
    """
    full = getattr(value, "_pyro_unconstrained_param", None)
    if full is not None:
        return full  # type: ignore[no-any-return]
    unconstrained = getattr(value, "unconstrained", None)
    leaf: Tensor = unconstrained() if callable(unconstrained) else value
    return leaf
