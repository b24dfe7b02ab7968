# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Products of matrices with many vectors, for what is drawn from q and what is estimated by it."""

import torch
from torch import Tensor


def at_draws(matrix: Tensor, vectors: Tensor) -> Tensor:
    """A matrix, or a batch of them, times each of many draws: one product of matrices.

    Products of a matrix and one vector each would read the matrix once for each draw.

    :param matrix: # shape: (*batch, D, D)
    :param vectors: # shape: (draws, *batch, D)
    """
    return torch.einsum("...ij,s...j->s...i", matrix, vectors)
