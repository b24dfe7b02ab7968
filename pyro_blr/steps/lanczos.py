# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The least curvature of a matrix that is known by its products alone (Lanczos 1950)."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..lifting import host


def least_curvature(
    times: Callable[[Tensor], Tensor], start: Tensor, iterations: int
) -> tuple[float, float, Tensor]:
    """The least and the largest eigenvalue as far as they are found, and the least one's vector.

    Both lie within the spectrum; all earlier vectors are kept orthogonal, so that none comes twice.

    :param times: the matrix times a vector.
    :param start: a random vector. # shape: (D,)
    """
    basis = [start / start.norm()]
    diagonal: list[Tensor] = []
    beside: list[Tensor] = []
    for _ in range(min(iterations, len(start))):
        product = times(basis[-1])
        diagonal.append(product @ basis[-1])
        known = torch.stack(basis)
        for _ in range(2):  # once is not enough in floating point
            product = product - known.mT @ (known @ product)
        size = product.norm()
        if not host.truth(size > 1e-10 * torch.stack(diagonal).abs().max()):
            break
        beside.append(size)
        basis.append(product / size)
    matrix = torch.diag(torch.stack(diagonal))
    if len(diagonal) > 1:
        off = torch.diag(torch.stack(beside[: len(diagonal) - 1]), 1)
        matrix = matrix + off + off.mT
    values, vectors = torch.linalg.eigh(matrix)
    vector = torch.stack(basis[: len(diagonal)]).mT @ vectors[:, 0]
    return host.number(values[0]), host.number(values[-1]), vector
