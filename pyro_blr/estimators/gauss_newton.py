# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Gauss and Newton's part of a Hessian: f is concave in the outputs o of a network.

    hess f = J' (d2f/do2) J + sum_i (df/do_i) hess o_i,      J = do/dz.

The first part is never positive, so that a precision made of it never leaves the cone, and is all
of it where o is linear. The second is left out: a bias, but small where the slopes df/do are noise
about 0 (a network that fits), and the estimate of a Hessian without it has far less noise.

By columns it costs three passes through the network an element. By probes it costs one: with a root
``R R' = -d2f/do2`` and random signs s, ``E[(J'R s)(J'R s)'] = J'R R'J`` (Hutchinson 1990), for all
elements at once, and each probe's outer product is in the cone already.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .hessians import EXACT

#: Probes for each element of an event, over all draws: the outer products then have full rank with
#: some to spare (the smallest of their eigenvalues would be (1 - 2^-1/2)^2 of its mean).
PROBES_PER_ELEMENT = 2

#: The most probes at each draw, each a backward pass through the network.
MOST_PROBES = 64


@dataclass(frozen=True, eq=False)
class Outputs:
    """Outputs of a network at draws of its variables, from which f was computed.

    :param value: with the graph back to the draws. # shape: (draws, *batch[, K])
    :param is_vector: whether f couples the K elements of the last dim; it couples no others.
    """

    value: Tensor
    is_vector: bool


class GaussNewton:
    """The mean of ``J' (d2f/do2) J`` within each event.

    :param values: f at the draws, concave in each of the outputs. # shape: (draws,)
    :param outputs: no one computed from another.
    """

    def __init__(self, values: Tensor, outputs: Sequence[Outputs]) -> None:
        self.values = values
        self.outputs = outputs

    def __call__(self, gradient: Tensor, variable: Any) -> Tensor | None:
        """# shape: that of the variable's covariance

        :param variable: a :class:`~pyro_blr.estimators.Variable`.
        """
        total = self.values.sum()
        curved = []
        for output in self.outputs:
            (slope,) = torch.autograd.grad(total, output.value, create_graph=True)
            if slope.requires_grad:
                curved.append((output, slope))
        if not curved:
            return None  # f is linear in the outputs
        by_columns = variable.mean.numel() <= EXACT
        return (_by_columns if by_columns else _by_probes)(curved, variable)


Curved = Sequence[tuple[Outputs, Tensor]]


def _by_columns(curved: Curved, variable: Any) -> Tensor:
    """Column by column, each batch element for itself."""
    mean, draws = variable.mean, variable.draws
    size = 1 if variable.scalar else mean.shape[-1]
    rows = []
    for place in range(mean.numel()):
        direction = torch.zeros_like(draws).reshape(len(draws), -1)
        direction[:, place] = 1.0
        row = sum(_times(o.value, slope, draws, direction) for o, slope in curved)
        assert isinstance(row, Tensor)
        start = place - place % size
        rows.append(row.reshape(len(draws), -1)[:, start : start + size].mean(0))
    full = torch.stack(rows).to(mean.dtype)
    if variable.scalar:
        return full.reshape(mean.shape)
    full = full.reshape(*mean.shape, size)
    full = 0.5 * (full + full.mT)
    return full.sum(-3) if variable.has_rows else full


def _times(output: Tensor, slope: Tensor, draws: Tensor, direction: Tensor) -> Tensor:
    """``J' (d2f/do2) J`` times a direction, at each draw."""
    # J'w is linear in w, so that its derivative in w along the direction is J times it.
    dummy = torch.zeros_like(output, requires_grad=True)
    pulled = _pulled([output], draws, [dummy], create_graph=True)
    (pushed,) = torch.autograd.grad(
        pulled,
        dummy,
        direction.reshape(draws.shape),
        retain_graph=True,
        allow_unused=True,
        materialize_grads=True,
    )
    (bent,) = torch.autograd.grad(slope, output, pushed, retain_graph=True)
    return _pulled([output], draws, [bent])


def _by_probes(curved: Curved, variable: Any) -> Tensor:
    """By random signs at the outputs, pulled back through the network."""
    mean, draws = variable.mean, variable.draws
    roots = [_root(o, slope) for o, slope in curved]
    outputs = [o.value for o, _ in curved]
    size = 1 if variable.scalar else mean.shape[-1]
    probes = min(MOST_PROBES, max(1, -(-PROBES_PER_ELEMENT * size // len(draws))))
    generator = torch.Generator().manual_seed(variable.seed)
    total: Tensor | None = None
    for _ in range(probes):
        signs = [_signs(o.value, generator) for o, _ in curved]
        rooted = [
            (r @ s.unsqueeze(-1)).squeeze(-1) if o.is_vector else r * s
            for (o, _), r, s in zip(curved, roots, signs, strict=True)
        ]
        pulled = _pulled(outputs, draws, rooted).to(mean.dtype)
        product = _outer(pulled, variable)
        total = product if total is None else total + product
    assert total is not None
    return -total / (probes * len(draws))


def _outer(pulled: Tensor, variable: Any) -> Tensor:
    """The sum of outer products over draws, and over rows that share a covariance."""
    if variable.scalar:
        return pulled.square().sum(0)
    rows = "s...ni,s...nj->...ij" if variable.has_rows else "s...i,s...j->...ij"
    return torch.einsum(rows, pulled, pulled)


def _root(output: Outputs, slope: Tensor) -> Tensor:
    """R with ``R R' = -d2f/do2`` for each element, or for each K of the last dim.

    # shape: (draws, *batch[, K, K])
    """

    def along(direction: Tensor) -> Tensor:
        (product,) = torch.autograd.grad(slope, output.value, direction, retain_graph=True)
        return -product

    # f is concave: what is below 0 here is the rounding of a zero.
    if not output.is_vector:
        return along(torch.ones_like(slope)).clamp(min=0).sqrt()
    columns = []
    for k in range(slope.shape[-1]):
        direction = torch.zeros_like(slope)
        direction[..., k] = 1.0
        columns.append(along(direction))
    matrix = torch.stack(columns, -1)
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    root: Tensor = vectors * values.clamp(min=0).sqrt().unsqueeze(-2)
    return root


def _signs(like: Tensor, generator: torch.Generator) -> Tensor:
    return (2 * torch.randint(2, like.shape, generator=generator, device="cpu") - 1).to(like)


def _pulled(
    outputs: Sequence[Tensor],
    draws: Tensor,
    cotangents: Sequence[Tensor],
    create_graph: bool = False,
) -> Tensor:
    """J' times cotangents, at each draw. # shape: that of the draws"""
    (pulled,) = torch.autograd.grad(
        outputs,
        draws,
        cotangents,
        retain_graph=True,
        create_graph=create_graph,
        allow_unused=True,
        materialize_grads=True,
    )
    return pulled
