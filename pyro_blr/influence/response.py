# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""How q answers to a message that is added: by the message, and by what the others become.

At an optimum ``natural = M(natural)``, M the sum of all messages. With a message m more,

    d natural = m + J d natural,        d natural = (I - J)^-1 m = R m,

J being the derivative of M. As the gradient of -ELBO is F (natural - M), its Hessian is H = F (I -
J), and ``R = H^-1 F``, the linear response (Giordano, Broderick & Jordan 2018). Where no message
depends on q, R is the identity, and the answer exact.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from .. import errors
from ..families import Natural
from ..lifting.blocks import Block
from ..objective import EnergyObjective
from ..steps.certificate import Curvature
from .coordinates import Coordinates

#: The numbers of q up to which R is a matrix: beyond, messages are taken out and the others stay.
MAX_NUMBERS = 2048

#: Curvature, as a share of the Fisher metric's, below which the ELBO is flat along a direction, as
#: along the rotations of a factor model.
FLAT = 1e-5

#: Directions whose products with the Hessian are taken at once.
TOGETHER = 32

#: Directions whose Fisher products are taken at once: 2 ** 22 numbers.
PIECE = 2**22


class Response:
    """R at an optimum, as a matrix in the independent numbers of q."""

    def __init__(self, objective: EnergyObjective, naturals: Mapping[Block, Natural]) -> None:
        self.coordinates = Coordinates(naturals)
        self.metric = fisher_matrix(self.coordinates, naturals)
        hessian = _hessian(self.coordinates, objective, naturals)
        self.matrix = _response(hessian, self.metric)

    def to(self, messages: Tensor) -> Tensor:
        """The answers to a batch of messages, in coordinates. # shape: (C, numbers)"""
        return messages @ self.matrix.mT


def _response(hessian: Tensor, metric: Tensor) -> Tensor:
    """``H^-1 F``, without the directions in which the ELBO is flat: there nothing is to be told.

    :raises ArgumentError: if H has a direction of negative curvature.
    """
    factor, failed = torch.linalg.cholesky_ex(metric)
    if bool(failed) or not bool(torch.isfinite(hessian).all()):
        raise not_at_optimum("its curvature is not finite there")
    half = torch.linalg.solve_triangular(factor, hessian, upper=False)
    relative = torch.linalg.solve_triangular(factor, half.mT, upper=False)
    values, vectors = torch.linalg.eigh(0.5 * (relative + relative.mT))
    if len(values) and float(values[0]) < -FLAT:
        raise not_at_optimum("the ELBO rises along some direction")
    is_flat = values <= FLAT
    inverse = torch.where(is_flat, 0.0, 1 / torch.where(is_flat, 1.0, values))
    inner = (vectors * inverse) @ vectors.mT
    result: Tensor = torch.linalg.solve_triangular(factor.mT, inner @ factor.mT, upper=True)
    return result


def fisher_matrix(coordinates: Coordinates, naturals: Mapping[Block, Natural]) -> Tensor:
    """The Fisher matrix of q in its independent numbers. # shape: (size, size)"""
    numbers = sum(shape.numel() for shape in coordinates.shapes)
    step = max(1, PIECE // numbers)
    rows = []
    for start in range(0, coordinates.size, step):
        directions = coordinates.basis(start, min(start + step, coordinates.size))
        products = {}
        for block, direction in directions.items():
            natural = tuple(
                n.detach().expand(d.shape) for n, d in zip(naturals[block], direction, strict=True)
            )
            products[block] = block.family.fisher(natural, direction)
        rows.append(coordinates.covector(products))
    matrix = torch.cat(rows)
    return 0.5 * (matrix + matrix.mT)


def _hessian(
    coordinates: Coordinates, objective: EnergyObjective, naturals: Mapping[Block, Natural]
) -> Tensor:
    """The Hessian of -ELBO in the independent numbers of q. # shape: (size, size)"""
    curvature = Curvature(objective, naturals)
    rows = []
    for start in range(0, coordinates.size, TOGETHER):
        stop = min(start + TOGETHER, coordinates.size)
        directions = coordinates.basis(start, stop)
        product = _products(curvature, [t for b in coordinates.blocks for t in directions[b]])
        rows.append(coordinates.covector(coordinates.split(product)))
    matrix = torch.cat(rows)
    return 0.5 * (matrix + matrix.mT)


def _products(curvature: Curvature, directions: list[Tensor]) -> list[Tensor]:
    """The Hessian's products with a batch of directions; one by one if they cannot be taken so."""
    curvature.objective.count_gradients(2 * len(directions[0]))
    try:
        found = torch.autograd.grad(
            curvature.graph,
            curvature.leaves,
            directions,
            retain_graph=True,
            allow_unused=True,
            is_grads_batched=True,
        )
    except RuntimeError:  # an operation without a rule for batches
        each = [curvature.times([d[k] for d in directions]) for k in range(len(directions[0]))]
        return [torch.stack(parts) for parts in zip(*each, strict=True)]
    return [torch.zeros_like(d) if f is None else f for f, d in zip(found, directions, strict=True)]


def not_at_optimum(what: str) -> errors.ArgumentError:
    """The error for a guide that has not been fitted to these data."""
    return errors.ArgumentError(
        f"the guide is not at an optimum for these data: {what}. What a datum did is told at one, "
        "where the messages are in balance. Mend: blr.fit(*args) with the same data first, until "
        "it has converged."
    )
