# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The gradient of each datum's loss by ``torch.func.vmap``, summed with its squares."""

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from ..errors import ArgumentError
from .draws import state_dtype


@dataclass
class Sums:
    """Sums over data.

    :param count: how many data.
    :param loss: the sum of their losses.
    :param gradients: of each parameter the sum of the data's gradients.
    :param squares: of each parameter the sum of their squares.
    """

    count: int = 0
    loss: Any = 0.0
    gradients: dict[Tensor, Tensor] = field(default_factory=dict)
    squares: dict[Tensor, Tensor] = field(default_factory=dict)

    def add(self, parameter: Tensor, rows: Tensor) -> None:
        """Add some data's gradients of one parameter. # shape: (data, *parameter)"""
        wide = rows.to(state_dtype(parameter))
        sums = (self.gradients, wide.sum(0)), (self.squares, wide.square().sum(0))
        for held, own in sums:
            held[parameter] = held[parameter].add_(own) if parameter in held else own


def sums_over_data(
    module: nn.Module,
    loss: Callable[..., Tensor],
    inputs: Any,
    targets: Any,
    parameters: Collection[Tensor],
    chunk_size: int | None,
) -> Sums:
    """The sums over a batch, a chunk of it at a time.

    :param inputs: a tensor or a tuple of them; rows are data, as in every tensor of ``targets``.
    :param parameters: those of the module whose gradients are asked for.
    :raises ArgumentError: if there are no data, or rows cannot be taken one by one.
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    named = {n: p for n, p in module.named_parameters() if p in parameters}
    if not named or not len(inputs[0]):
        what = "has no parameter of this optimiser" if not named else "got a batch without rows"
        raise ArgumentError(
            f"the {type(module).__name__} {what}. Mend: optimizer.backward(net, loss, x, y) with "
            "the net whose parameters the optimiser was given, and at least one row."
        )
    others = {n: p.detach() for n, p in module.named_parameters() if n not in named}
    others |= dict(module.named_buffers())

    def of_one(weights: dict[str, Tensor], row: Any, target: Any) -> Tensor:
        batch = tuple(x.unsqueeze(0) for x in row)
        output = functional_call(module, {**others, **weights}, batch)
        return loss(output, torch.utils._pytree.tree_map(lambda t: t.unsqueeze(0), target))

    of_rows = vmap(grad_and_value(of_one), in_dims=(None, 0, 0), randomness="different")
    weights = {name: parameter.detach() for name, parameter in named.items()}
    result, step = Sums(), chunk_size or len(inputs[0])
    for first in range(0, len(inputs[0]), step):
        row, target = _sliced((inputs, targets), slice(first, first + step))
        gradients, losses = _called(of_rows, weights, row, target, type(module).__name__)
        result.count += len(losses)
        result.loss = result.loss + losses.detach().sum()
        for name, parameter in named.items():
            result.add(parameter, gradients[name])
    return result


def _sliced(tree: Any, rows: slice) -> Any:
    return torch.utils._pytree.tree_map(lambda t: t[rows], tree)


def _called(of_rows: Any, weights: Any, row: Any, target: Any, name: str) -> Any:
    try:
        return of_rows(weights, row, target)
    except RuntimeError as error:
        if not any(word in str(error) for word in ("vmap", "transform")):  # not torch.func's own
            raise
        raise ArgumentError(
            f"the data of {name} cannot be taken one by one: {str(error).splitlines()[0]} Mend: "
            "layers that mix rows or update buffers (BatchNorm) have no gradient of one datum: "
            "use GroupNorm or LayerNorm; or use IVON, which needs none."
        ) from error
