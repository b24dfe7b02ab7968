# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The Hessian of a loss as a function of a few tensors: as a matrix, or by its products."""

from collections.abc import Sequence

import torch
from torch import Tensor


def gradient_graph(loss: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The gradient with its graph; 0 where the loss does not depend on a leaf."""
    if not loss.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    first = torch.autograd.grad(loss, leaves, create_graph=True, allow_unused=True)
    return [torch.zeros_like(x) if g is None else g for g, x in zip(first, leaves, strict=True)]


def hessian_product(
    graph: Sequence[Tensor], leaves: Sequence[Tensor], vector: Sequence[Tensor]
) -> list[Tensor]:
    """The Hessian times a vector.

    :param graph: see :func:`gradient_graph`.
    """
    used = [(g, v) for g, v in zip(graph, vector, strict=True) if g.requires_grad]
    if not used:
        return [torch.zeros_like(v) for v in vector]
    outputs, weights = [g for g, _ in used], [v for _, v in used]
    product = torch.autograd.grad(
        outputs, list(leaves), weights, retain_graph=True, allow_unused=True
    )
    return [torch.zeros_like(v) if p is None else p for p, v in zip(product, vector, strict=True)]


def dense_hessian(graph: Sequence[Tensor], leaves: Sequence[Tensor]) -> Tensor:
    """The symmetric matrix of all leaves together, in float64. # shape: (elements, elements)

    :param graph: see :func:`gradient_graph`.
    """
    rows = []
    for element in flat(graph):
        row: tuple[Tensor | None, ...] = (None,) * len(leaves)
        if element.requires_grad:
            row = torch.autograd.grad(element, leaves, retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(x) if r is None else r for r, x in zip(row, leaves, strict=True)]
        rows.append(flat(filled))
    matrix = torch.stack(rows)
    return 0.5 * (matrix + matrix.mT)


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All elements in one vector, in float64. # shape: (elements,)"""
    return torch.cat([t.reshape(-1).double() for t in tensors])


def unflat(vector: Tensor, leaves: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The parts of a vector with the shapes and dtypes of the leaves."""
    parts = vector.split([leaf.numel() for leaf in leaves])
    return tuple(p.reshape(x.shape).to(x.dtype) for p, x in zip(parts, leaves, strict=True))
