# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The table of a model and its derivatives in the parameters, at many parameters at once."""

from collections.abc import Callable

import torch
from torch import Tensor

from .. import errors


def table_and_jacobian(
    table: Callable[[Tensor], Tensor], thetas: Tensor, dims: tuple[str, ...]
) -> tuple[Tensor, Tensor]:
    """The table and its derivatives, with a graph if the parameters have one.

    A single parameter is passed to the function as it is, so that Python may look at its values;
    several are passed under ``torch.vmap``.

    :param thetas: # shape: (N, parameters)
    :returns: # shapes: (N, *sizes), (N, *sizes, parameters)
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
    jacobian = columns.reshape(*tables.shape, thetas.shape[-1])
    return (tables, jacobian) if is_wanted else (tables.detach(), jacobian.detach())


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
