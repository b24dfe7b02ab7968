# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The common shape of several."""

from collections.abc import Sequence
from itertools import zip_longest

import torch


def broadcast_shapes(*shapes: Sequence[int]) -> torch.Size:
    """The shape that others broadcast to.

    ``torch.broadcast_shapes`` costs as much as ten operations on small tensors, and NumPy's has no
    more than 32 dims.

    :raises RuntimeError: as torch does, if there is none.
    """
    sizes = [
        {size for size in own if size != 1}
        for own in zip_longest(*(reversed(shape) for shape in shapes), fillvalue=1)
    ]
    if any(len(own) > 1 for own in sizes):
        listed = ", ".join(str(tuple(shape)) for shape in shapes)
        raise RuntimeError(f"the shapes {listed} do not broadcast")
    return torch.Size(next(iter(own), 1) for own in reversed(sizes))
