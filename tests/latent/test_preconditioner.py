# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""The blocks on the diagonal of a Hessian, by products alone."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from pyro_blr.latent.maximising import Maximiser
from pyro_blr.latent.preconditioner import Blocks

SHAPES = {"first": (3, 4, 2), "second": (3, 4), "third": (), "fourth": (5,)}


def small_matrices(*shape: int) -> Tensor:
    root = torch.randn(*shape, shape[-1])
    return root @ root.mT + torch.eye(shape[-1])


FIRST, FOURTH = small_matrices(3, 4, 2), small_matrices(5)
SECOND = 1.0 + torch.rand(3, 4)


def block_product(vector: Sequence[Tensor]) -> list[Tensor]:
    """A Hessian that couples the last dim of the first leaf, and all of the fourth."""
    first, second, third, fourth = vector
    return [
        torch.einsum("kpij,kpj->kpi", FIRST, first),
        SECOND * second,
        9.0 * third,
        FOURTH @ fourth,
    ]


def test_blocks_are_found_and_inverted() -> None:
    leaves = [torch.zeros(shape) for shape in SHAPES.values()]
    blocks = Blocks(block_product, leaves)
    assert blocks.coupled == [(2,), (), (), (0,)]
    vector = [torch.randn_like(leaf) for leaf in leaves]
    solved = blocks.outer(blocks.inner(vector))
    assert_close(block_product(solved), vector)


def test_a_leaf_of_one_large_block_is_left_as_it_is() -> None:
    big = small_matrices(80)
    leaf = torch.zeros(80)
    blocks = Blocks(lambda v: [big @ v[0]], [leaf])
    assert blocks.coupled == [(0,)] and blocks.roots == [None]
    assert_close(blocks.outer([torch.ones(80)])[0], torch.ones(80))


@pytest.mark.parametrize("size", [3, 90])
def test_a_quadratic_is_minimised(size: int) -> None:
    matrix, target = small_matrices(size), torch.randn(size)
    leaf = torch.zeros(size, requires_grad=True)
    assert Maximiser([leaf]).minimise(lambda: 0.5 * leaf @ matrix @ leaf - target @ leaf)
    assert_close(leaf.detach(), torch.linalg.solve(matrix, target), atol=1e-7, rtol=1e-7)


def test_a_function_without_a_minimum_is_told() -> None:
    leaf = torch.zeros(2, requires_grad=True)
    assert not Maximiser([leaf]).minimise(lambda: leaf.sum())
