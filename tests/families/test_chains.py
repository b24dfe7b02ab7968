# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Chains of every length and width against one dense matrix."""

import pytest
import torch
from torch import Tensor

from pyro_blr.families import ChainNormal, Natural, chain_matrices

FAMILY = ChainNormal()


def chain(length: int, width: int, batch: tuple[int, ...], least: float) -> Natural:
    """Neighbours meet in random squares, beside which each number has a little precision."""
    generator = torch.Generator().manual_seed(length)
    rows = torch.randn(*batch, length - 1, width, 2 * width, generator=generator)
    square = rows.mT @ rows
    own = least * torch.eye(width).repeat(*batch, length, 1, 1)
    own[..., :-1, :, :] += square[..., :width, :width]
    own[..., 1:, :, :] += square[..., width:, width:]
    first = torch.randn(*batch, length, width, generator=generator)
    return first, -0.5 * own, -square[..., :width, width:]


def blocks(matrix: Tensor, length: int, width: int) -> tuple[Tensor, Tensor]:
    """The blocks of each time, and with the next one."""
    split = matrix.unflatten(-1, (length, width)).unflatten(-3, (length, width)).transpose(-3, -2)
    parts = (split.diagonal(by, -4, -3).movedim(-1, -3) for by in (0, 1))
    return next(parts), next(parts)


@pytest.mark.parametrize("least", [1.0, 1e-6], ids=["well", "nearly singular"])
@pytest.mark.parametrize("batch", [(), (2, 3)], ids=str)
@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 33])
def test_fisher_is_the_change_of_a_dense_gaussian(
    length: int, width: int, batch: tuple[int, ...], least: float
) -> None:
    """dm = C (d(S m) - dS m) and dC = -C dS C, with the digits that the condition leaves."""
    natural = chain(length, width, batch, least)
    vector = FAMILY.symmetrize(tuple(torch.randn_like(n) for n in natural))
    S, dS = (chain_matrices.dense(FAMILY.precision(n)) for n in (natural, vector))
    first, d_first = (n[0].flatten(-2).unsqueeze(-1) for n in (natural, vector))
    C = torch.cholesky_inverse(torch.linalg.cholesky(S))
    mean = C @ first
    d_mean = C @ (d_first - dS @ mean)
    d_second = -C @ dS @ C + d_mean @ mean.mT + mean @ d_mean.mT
    expected = d_mean.reshape(natural[0].shape), *blocks(d_second, length, width)
    eps = torch.finfo(torch.float64).eps
    for got, right in zip(FAMILY.fisher(natural, vector), expected, strict=True):
        scale = right.abs().max() if right.numel() else 1.0
        torch.testing.assert_close(got / scale, right / scale, rtol=0, atol=100 * eps / least)


def test_a_kept_factor_is_of_the_same_dtype() -> None:
    """Integers are equal in float64 and in float32."""
    double = torch.ones(2, 1), torch.tensor([[[-2.0]], [[-1.0]]]), torch.ones(1, 1, 1)
    single = tuple(n.float() for n in double)
    for natural in (double, single, double):
        assert FAMILY.factor(natural).root.dtype == natural[0].dtype


def test_a_factor_of_a_transform_or_of_inference_mode_is_not_kept() -> None:
    first, own, beside = chain(5, 2, (), 1.0)
    parts = -2 * own, -beside

    def squared(vector: Tensor) -> Tensor:
        return chain_matrices.factorise(parts).solve(vector).square().sum()

    second = torch.func.jacrev(torch.func.grad(squared))
    hessian = second(first)
    assert torch.equal(second(first), hessian)
    with torch.inference_mode():
        chain_matrices.factorise(tuple(p.clone() for p in parts))
    variable = first.clone().requires_grad_()
    squared(variable).backward()
    expected = (hessian.flatten(2).flatten(0, 1) @ first.flatten()).reshape(first.shape)
    torch.testing.assert_close(variable.grad, expected)
