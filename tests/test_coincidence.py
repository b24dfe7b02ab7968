# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Products of a plate's elements with each other: z is correlated with itself where they coincide.

Under one block a site the elements are independent, so that every term of Isserlis' theorem needs
the positions where two index maps name one element. The oracle is a Gauss-Hermite grid over all
four elements, which is exact for these functions.
"""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from numpy.polynomial.hermite_e import hermegauss
from torch import Tensor

from tests.checks import engine, expected_log_joint, tiers

MEAN = torch.tensor([0.8, -0.5, 0.3, -1.1])
SCALE = torch.tensor([0.6, 0.9, 0.4, 0.7])
WEIGHT = torch.tensor([0.7, -1.2, 0.4, 1.5])
SWAP = torch.tensor([1, 0, 2, 3])
TWICE = torch.tensor([3, 3, 2, 0])

ONE, WEIGHTS_OF_ONE = (torch.as_tensor(a) for a in hermegauss(14))
NODES = torch.cartesian_prod(ONE, ONE, ONE, ONE)
WEIGHTS = torch.cartesian_prod(*[WEIGHTS_OF_ONE] * 4).prod(-1)

Function = Callable[[Tensor], Tensor]

#: Functions of the four elements of a plate; a dim in front is the grid's.
OF_A_VECTOR: dict[str, Function] = {
    "at a permutation": lambda z: (WEIGHT * z * z[..., SWAP]).sum(-1),
    "a permutation first": lambda z: (WEIGHT * z[..., SWAP] * z).sum(-1),
    "a table with repeats": lambda z: (WEIGHT * z[..., TWICE] * z).sum(-1),
    "two tables": lambda z: (WEIGHT * z[..., TWICE] * z[..., SWAP] * z).sum(-1),
    "reversed": lambda z: (WEIGHT * z * z.flip(-1)).sum(-1),
    "tilted": lambda z: (WEIGHT * z[..., SWAP] * z * torch.exp(0.3 * z)).sum(-1),
    "tilted elsewhere": lambda z: (WEIGHT * z[..., SWAP] * torch.exp(0.3 * z)).sum(-1),
    "masses": lambda z: (WEIGHT * torch.exp(0.3 * z[..., TWICE] + 0.2 * z)).sum(-1),
}

#: Functions of a 2 x 2 matrix, in two nested plates.
OF_A_MATRIX: dict[str, Function] = {
    "with its transpose": lambda z: (z * z.mT).sum((-2, -1)),
    "weighted": lambda z: (WEIGHT.reshape(2, 2) * z * z.mT).sum((-2, -1)),
    "sum by trace": lambda z: z.sum((-2, -1)) * z.diagonal(dim1=-2, dim2=-1).sum(-1),
    "square": lambda z: (z @ z).sum((-2, -1)),
    "trace of the cube": lambda z: torch.einsum("...ij,...jk,...ki->...", z, z, z),
    "tilted by its transpose": lambda z: (z * torch.exp(0.3 * z.mT)).sum((-2, -1)),
    "diagonal tilted by rows": lambda z: (
        z.diagonal(dim1=-2, dim2=-1).unsqueeze(-1) * torch.exp(0.3 * z.mT)
    ).sum((-2, -1)),
    "masses": lambda z: torch.exp(0.3 * z + 0.2 * z.mT).sum((-2, -1)),
    "masses of two sums": lambda z: (torch.exp(z.sum(-2)) * torch.exp(z.sum(-1))).sum(-1),
    "masses of a sum and an element": lambda z: (
        torch.exp(z.sum((-2, -1))) ** 0.3 * torch.exp(z[..., 0, 1])
    ),
    "masses that cancel but one": lambda z: (
        torch.exp(z.sum(-1)) * torch.exp(-z[..., 0, :]) * torch.exp(-z.sum(-1))
    ).sum(-1),
}


def _oracle(function: Function, shape: tuple[int, ...]) -> Tensor:
    values = function((MEAN + SCALE * NODES).reshape(-1, *shape))
    return (WEIGHTS * values).sum() / WEIGHTS.sum()


def _found(model: Callable[[], None], shape: tuple[int, ...], blocks: str) -> tuple[Tensor, str]:
    """E[function] by the engine: the expected log joint less that of the prior."""
    q = dist.Normal(MEAN.reshape(shape), SCALE.reshape(shape))
    blr, _ = engine(model, {"z": q}, blocks=blocks)
    prior = -0.5 * (MEAN**2 + SCALE**2 + torch.tensor(2 * torch.pi).log()).sum()
    return expected_log_joint(blr, {"z": q}) - prior, tiers(blr)["f"]


@pytest.mark.parametrize("blocks", ["site", "auto"])
@pytest.mark.parametrize("name", OF_A_VECTOR)
def test_elements_of_a_plate(name: str, blocks: str) -> None:
    def model() -> None:
        with pyro.plate("i", 4):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", OF_A_VECTOR[name](z))

    found, tier = _found(model, (4,), blocks)
    assert tier == "exact"
    torch.testing.assert_close(found, _oracle(OF_A_VECTOR[name], (4,)), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("blocks", ["site", "auto"])
@pytest.mark.parametrize("name", OF_A_MATRIX)
def test_elements_of_nested_plates(name: str, blocks: str) -> None:
    def model() -> None:
        with pyro.plate("i", 2, dim=-2), pyro.plate("j", 2, dim=-1):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.factor("f", OF_A_MATRIX[name](z))

    found, tier = _found(model, (2, 2), blocks)
    assert tier == "exact"
    torch.testing.assert_close(found, _oracle(OF_A_MATRIX[name], (2, 2)), rtol=1e-10, atol=1e-10)
