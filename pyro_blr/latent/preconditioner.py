# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The blocks on the diagonal of a Hessian, found by a few of its products with vectors.

The expected log joint of a mixture of factor analysers has for its loadings, a tensor of states,
entries and factors, a Hessian that couples factors alone: a small matrix for each state and entry.
Such dims are found by products with vectors that are 0 but at one index, and all the small matrices
together by as many products as one of them has columns.
"""

from collections.abc import Callable, Sequence
from math import prod

import torch
from torch import Tensor

#: Larger blocks are not looked for.
MAX_COLUMNS = 64

Product = Callable[[Sequence[Tensor]], Sequence[Tensor]]


class Blocks:
    """A symmetric preconditioner ``R R'``, near to the inverse of a Hessian.

    :param times: the Hessian times a vector.
    :param leaves: what it is the Hessian in.
    :param coupled: for each leaf, its dims along which elements are coupled; found if None.
    """

    def __init__(
        self,
        times: Product,
        leaves: Sequence[Tensor],
        coupled: list[tuple[int, ...]] | None = None,
    ) -> None:
        self.leaves = leaves
        each = range(len(leaves))
        self.coupled = coupled or [self._coupled_dims(times, place) for place in each]
        self.roots = [self._root(times, place) for place in each]

    def _only(self, place: int, value: Tensor) -> list[Tensor]:
        found = [torch.zeros_like(leaf) for leaf in self.leaves]
        found[place] = value
        return found

    def _coupled_dims(self, times: Product, place: int) -> tuple[int, ...]:
        leaf, found = self.leaves[place], []
        for dim, size in enumerate(leaf.shape):
            if size == 1:
                continue
            start = torch.zeros_like(leaf)
            start.select(dim, 0).fill_(1.0)
            rest = times(self._only(place, start))[place].narrow(dim, 1, size - 1)
            if bool((rest != 0.0).any()):
                found.append(dim)
        return tuple(found)

    def _root(self, times: Product, place: int) -> Tensor | None:
        """R of each block, side by side; None where they are too large.

        # shape: (independent elements, columns, columns)
        """
        leaf, dims = self.leaves[place], self.coupled[place]
        columns = prod(leaf.shape[d] for d in dims)
        if columns > MAX_COLUMNS:
            return None
        found = []
        for column in range(columns):
            unit = torch.zeros(leaf.numel() // columns, columns, dtype=leaf.dtype)
            unit[:, column] = 1.0
            vector = self._unrow(unit.to(leaf.device), place)
            found.append(self._row(times(self._only(place, vector))[place], place))
        block = torch.stack(found, -1)
        if not bool(torch.isfinite(block).all()):
            return None
        values, vectors = torch.linalg.eigh(0.5 * (block + block.mT))
        size = values.abs()
        least = torch.finfo(leaf.dtype).eps * columns * size.amax(-1, keepdim=True)
        root: Tensor = vectors * torch.where(size > least, size, 1.0).rsqrt().unsqueeze(-2)
        return root

    def _order(self, place: int) -> tuple[int, ...]:
        dims = self.coupled[place]
        return (*(d for d in range(self.leaves[place].dim()) if d not in dims), *dims)

    def _row(self, value: Tensor, place: int) -> Tensor:
        """A tensor like the leaf as rows of coupled elements. # shape: (blocks, columns)"""
        columns = prod(value.shape[d] for d in self.coupled[place])
        return value.permute(self._order(place)).reshape(-1, columns)

    def _unrow(self, rows: Tensor, place: int) -> Tensor:
        order, shape = self._order(place), self.leaves[place].shape
        back = [order.index(d) for d in range(len(order))]
        return rows.reshape([shape[d] for d in order]).permute(back)

    def outer(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """R times a vector."""
        return [self._apply(v, root, place) for place, (v, root) in self._pairs(vector)]

    def inner(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """R' times a vector."""
        return [
            self._apply(v, None if root is None else root.mT, place)
            for place, (v, root) in self._pairs(vector)
        ]

    def _pairs(self, vector: Sequence[Tensor]) -> "enumerate[tuple[Tensor, Tensor | None]]":
        return enumerate(zip(vector, self.roots, strict=True))

    def _apply(self, value: Tensor, matrix: Tensor | None, place: int) -> Tensor:
        if matrix is None:
            return value
        rows = (matrix @ self._row(value, place).unsqueeze(-1)).squeeze(-1)
        return self._unrow(rows, place)
