# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The common shape of several."""

from collections.abc import Sequence

import numpy as np
import torch


def broadcast_shapes(*shapes: Sequence[int]) -> torch.Size:
    """The shape that others broadcast to.

    ``torch.broadcast_shapes`` costs as much as ten operations on small tensors.

    :raises RuntimeError: as torch does, if there is none.
    """
    try:
        return torch.Size(np.broadcast_shapes(*shapes))
    except ValueError:
        sizes = ", ".join(str(tuple(shape)) for shape in shapes)
        raise RuntimeError(f"the shapes {sizes} do not broadcast") from None
