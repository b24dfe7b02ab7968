# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The table of a model and its derivatives in the parameters, at many parameters at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from .. import errors


def table_and_jacobian(
    table: Callable[[Tensor], Tensor], thetas: Tensor, dims: tuple[str, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """The table and its derivatives, with a graph if the parameters have one, and its zeros.

    The zeros are those that a parameter moves: to first order, or as 0 is the least that there is,
    to second order, as the square of a parameter.

    A single parameter is passed to the function as it is, so that Python may look at its values;
    several are passed under ``torch.vmap``.

    :param thetas: # shape: (N, parameters)
    :returns: # shapes: (N, *sizes), (N, *sizes, parameters), (N, *sizes)
    """
    is_wanted = thetas.requires_grad and torch.is_grad_enabled()
    with torch.enable_grad():
        leaves = thetas if is_wanted else thetas.detach().requires_grad_()
        tables = _single(table, leaves) if len(leaves) == 1 else _many(table, leaves)
        if tables.dim() != 1 + len(dims):
            raise errors.ShapeError(
                f"the table has the shape {tuple(tables.shape[1:])}, and the dims are "
                f"{', '.join(dims)}. Mend: as many dims as names, one entry for each joint value."
            )
        columns = _gradients(tables.flatten(1), leaves, is_wanted)
        zero = tables.detach().flatten(1) == 0.0
        moved = zero & (
            (columns.detach() != 0.0).any(-1) | _curved(tables.flatten(1), leaves, zero)
        )
    jacobian = columns.reshape(*tables.shape, thetas.shape[-1])
    moved = moved.reshape(tables.shape)
    return (tables, jacobian, moved) if is_wanted else (tables.detach(), jacobian.detach(), moved)


def _single(table: Callable[[Tensor], Tensor], leaves: Tensor) -> Tensor:
    return _checked(table(leaves[0])).unsqueeze(0)


def _many(table: Callable[[Tensor], Tensor], leaves: Tensor) -> Tensor:
    try:
        found: Tensor = torch.vmap(lambda t: _checked(table(t)), randomness="same")(leaves)
        return found
    except RuntimeError as error:
        if not any(w in str(error) for w in ("vmap", "control flow", "Boolean value of Tensor")):
            raise
        raise errors.ControlFlowError(
            "the table asks for the value of a parameter (if, while, float()), and is evaluated at "
            "many parameters at once. Mend: torch.where in the place of if, or pass one parameter "
            f"at a time. ({str(error).splitlines()[0]})"
        ) from error


def _checked(table: Tensor) -> Tensor:
    if not isinstance(table, Tensor) or not table.is_floating_point():
        what = table.dtype if isinstance(table, Tensor) else type(table).__name__
        raise errors.ShapeError(
            f"the model returns {what}, not a table of probabilities. Mend: a floating-point "
            "tensor, torch.stack of what it is made of."
        )
    return table


def _gradients(flat: Tensor, leaves: Tensor, is_wanted: bool) -> Tensor:
    """The gradient of each entry of each row. # shape: (N, entries, parameters)"""
    if not flat.requires_grad:
        return leaves.new_zeros(*flat.shape, leaves.shape[-1])
    found = [
        torch.autograd.grad(
            *(flat, leaves, unit.expand_as(flat)),
            retain_graph=True,
            create_graph=is_wanted,
            materialize_grads=True,
        )[0]
        for unit in torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
    ]
    return torch.stack(found, 1)


def _curved(flat: Tensor, leaves: Tensor, zero: Tensor) -> Tensor:
    """Where a probability of 0 has a second derivative above 0. # shape: (N, entries)"""
    found = torch.zeros_like(zero)
    if not _has_second(flat, leaves, zero).any():  # of their sum, none of which is below 0
        return found
    for entry in zero.any(0).nonzero().flatten().tolist():
        found[:, entry] = _has_second(flat[:, entry], leaves, zero[:, entry])
    return found


def _has_second(flat: Tensor, leaves: Tensor, zero: Tensor) -> Tensor:
    """Whether the sum of some probabilities of each row has one. # shape: (N,)"""
    found = torch.zeros(len(leaves), dtype=torch.bool, device=leaves.device)
    own = torch.where(zero, flat, 0.0).sum()
    if not (own.requires_grad and bool(zero.any())):
        return found
    (slope,) = torch.autograd.grad(own, leaves, create_graph=True, materialize_grads=True)
    for place in range(leaves.shape[-1]) if slope.requires_grad else ():
        (second,) = torch.autograd.grad(
            slope[:, place].sum(), leaves, retain_graph=True, materialize_grads=True
        )
        # Not what is left of a difference that is 0 but for rounding.
        found |= second[:, place] > torch.finfo(second.dtype).eps ** 0.5
    return found
