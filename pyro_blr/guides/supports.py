# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Supports as torch knows transforms to them."""

from typing import Any

from torch.distributions import constraints


def plain_support(support: Any) -> Any:
    """A support, that of a ``MixtureSameFamily`` being the one of its components.

    The values are the same; torch has transforms to the latter alone.
    """
    if isinstance(support, constraints.MixtureSameFamilyConstraint):
        return plain_support(support.base_constraint)
    if isinstance(support, constraints._IndependentConstraint):
        base = plain_support(support.base_constraint)
        if base is not support.base_constraint:
            return constraints.independent(base, support.reinterpreted_batch_ndims)
    return support
