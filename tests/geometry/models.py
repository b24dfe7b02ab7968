# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0
"""Finite models whose geometry is known, and one of each kind that is not cylindrical."""

from collections.abc import Callable

import torch
from torch import Tensor

from pyro_blr.geometry import FiniteModel, saturated

DIMS = ("x", "y", "z")


def given(p: Tensor) -> Tensor:
    """The probabilities of two values, the first one p. # shape: (*batch, 2)"""
    return torch.stack([p, 1.0 - p], -1)


def bayes_table(theta: Tensor) -> Tensor:
    """x -> y and x -> z, all binary. # shape: (2, 2, 2)"""
    x, y, z = given(theta[0]), given(theta[1:3]), given(theta[3:5])
    return x[:, None, None] * y[:, :, None] * z[:, None, :]


def product_table(theta: Tensor) -> Tensor:
    """Three independent binary values. # shape: (2, 2, 2)"""
    x, y, z = given(theta[0]), given(theta[1]), given(theta[2])
    return x[:, None, None] * y[:, None] * z


def machine_table(theta: Tensor) -> Tensor:
    """A restricted Boltzmann machine of two visible units and a hidden one. # shape: (2, 2, 2)"""
    h, v, w = torch.meshgrid(*[torch.arange(2.0).to(theta)] * 3, indexing="ij")
    energy = theta[0] * h + theta[1] * v + theta[2] * w + h * (theta[3] * v + theta[4] * w)
    return energy.flatten().softmax(0).reshape(2, 2, 2)


def naive_bayes(hidden: str = "x") -> FiniteModel:
    """The non-cylindrical model of arXiv 2307.11249 where x is hidden."""
    return FiniteModel(bayes_table, DIMS, hidden, ("x", "y1", "y2", "z1", "z2"))


def independent() -> FiniteModel:
    """Its cylindrical version: the hidden value is independent of the visible ones."""
    return FiniteModel(product_table, DIMS, "x", ("x", "y", "z"))


def machine() -> FiniteModel:
    return FiniteModel(machine_table, DIMS, "x")


def chain(sizes: tuple[int, ...], hidden: tuple[str, ...]) -> FiniteModel:
    """a -> b -> c, each a free law given the one before."""
    a, b, c = sizes
    cuts = (a, a + a * b)

    def table(theta: Tensor) -> Tensor:
        first = theta[: cuts[0]].softmax(0)
        second = theta[cuts[0] : cuts[1]].reshape(a, b).softmax(1)
        third = theta[cuts[1] :].reshape(b, c).softmax(1)
        return first[:, None, None] * second[:, :, None] * third

    return FiniteModel(table, ("a", "b", "c"), hidden)


def chain_size(sizes: tuple[int, ...]) -> int:
    a, b, c = sizes
    return a + a * b + b * c


#: Cylindrical models and the number of their parameters.
CYLINDRICAL: dict[str, Callable[[], tuple[FiniteModel, Tensor]]] = {
    "hidden, independent of the visible": lambda: (independent(), torch.rand(20, 3)),
    "a saturated joint": lambda: (saturated(("h", "v"), (3, 4), "h"), torch.randn(20, 11)),
    "a hidden leaf of naive Bayes": lambda: (naive_bayes("z"), torch.rand(20, 5)),
    "the last of a chain": lambda: (
        chain((2, 3, 4), ("c",)),
        torch.randn(20, chain_size((2, 3, 4))),
    ),
    "the last two of a chain": lambda: (
        chain((3, 2, 3), ("b", "c")),
        torch.randn(20, chain_size((3, 2, 3))),
    ),
}

#: Models that are not, at parameters at random.
OTHERS: dict[str, Callable[[], tuple[FiniteModel, Tensor]]] = {
    "naive Bayes": lambda: (naive_bayes(), torch.rand(20, 5)),
    "a Boltzmann machine": lambda: (machine(), torch.randn(20, 5)),
    "the middle of a chain": lambda: (
        chain((2, 3, 2), ("b",)),
        torch.randn(20, chain_size((2, 3, 2))),
    ),
}
