# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The gradient of each datum's loss by ``torch.func.vmap``, summed with its squares."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import grad_and_value, vmap
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from ..counts import is_count
from ..errors import ArgumentError
from .draws import state_dtype
from .module_call import called_with


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

    :param inputs: a tensor, a tuple or a mapping of arguments; rows of tensors are data, as in
        ``targets``.
    :param parameters: those of the module whose gradients are asked for.
    :raises ArgumentError: if there are no data, or rows cannot be taken one by one.
    """
    _check_rows_apart(module)
    named = {n: p for n, p in module.named_parameters() if p in parameters}
    others = {n: p.detach() for n, p in module.named_parameters() if n not in named}
    others |= dict(module.named_buffers())
    if isinstance(inputs, Mapping):
        inputs = dict(inputs)  # what a tokenizer returns is else one leaf
    has_inputs = any(map(_has_rows, tree_leaves(inputs)))
    leaves, spec = tree_flatten((inputs, targets))
    rows = [x for x in leaves if _has_rows(x)]
    count = _count(rows if has_inputs else [], bool(named), type(module).__name__)
    step = _step(chunk_size, count)

    def of_one(weights: dict[str, Tensor], row: list[Tensor]) -> Tensor:
        own = iter(row)
        tree = [next(own).unsqueeze(0) if _has_rows(x) else x for x in leaves]
        arguments, target = tree_unflatten(tree, spec)
        output = called_with(module, {**others, **weights}, *_arguments(arguments))
        return _scalar(loss(output, target))

    weights = {name: parameter.detach() for name, parameter in named.items()}
    result = Sums()
    for first in range(0, count, step):
        chunk = [x[first : first + step] for x in rows]
        gradients, losses = _of_each(of_one, weights, chunk, module)
        result.count += len(losses)
        result.loss = result.loss + losses.detach().sum()
        for name, parameter in named.items():
            result.add(parameter, gradients[name])
    return result


def _has_rows(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.dim() > 0


def _check_rows_apart(module: nn.Module) -> None:
    """Refuse layers by whose statistics rows depend on each other: of one row they are others."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
            raise _not_apart(module, f"{type(layer).__name__} has the statistics of a batch.")


def _not_apart(module: nn.Module, why: str) -> ArgumentError:
    return ArgumentError(
        f"the data of {type(module).__name__} cannot be taken one by one: {why} Mend: layers that "
        "mix rows or update buffers (BatchNorm) have no gradient of one datum: use GroupNorm or "
        "LayerNorm; or use IVON, which needs none."
    )


def _count(rows: list[Tensor], has_parameters: bool, name: str) -> int:
    """How many data there are."""
    sizes = {len(x) for x in rows}
    if not has_parameters or not sizes or 0 in sizes:
        what = "got no rows" if has_parameters else "has no parameter of this optimiser"
        raise ArgumentError(
            f"the {name} {what}. Mend: optimizer.backward(net, loss, x, y) with the net whose "
            "parameters the optimiser was given, and at least one row."
        )
    if len(sizes) > 1:
        raise ArgumentError(
            f"the inputs and targets of the {name} have {sorted(sizes)} rows, and a row of each is "
            "a datum. Mend: tensors whose first dim is that of the data (batch_first=True of "
            "recurrent layers)."
        )
    return sizes.pop()


def _step(chunk_size: Any, count: int) -> int:
    if chunk_size is None:
        return count
    if not is_count(chunk_size):
        raise ArgumentError(f"chunk_size = {chunk_size!r}. Mend: a positive integer, or None.")
    return int(chunk_size)


def _arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a module: one, several or named ones."""
    if isinstance(inputs, dict):
        return (), inputs
    return (tuple(inputs) if isinstance(inputs, tuple | list) else (inputs,)), {}


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.numel() != 1:
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(
            f"the loss of one datum is of {found}, and one number is asked for. Mend: a loss whose "
            "result is the mean or the sum over its elements."
        )
    return value.reshape(())


def _of_each(of_one: Any, weights: Any, rows: list[Tensor], module: nn.Module) -> Any:
    """The gradients and losses of some data, all at once or one after the other.

    Recurrent layers, and losses that look at their values, have no rule under ``vmap``.
    """
    of_rows = vmap(grad_and_value(of_one), in_dims=(None, 0), randomness="different")
    try:
        return of_rows(weights, rows)
    except torch.cuda.OutOfMemoryError:  # of any accelerator; one by one needs as much
        raise
    except RuntimeError:
        each = [_called(of_one, weights, [x[i] for x in rows], module) for i in range(len(rows[0]))]
    gradients = {n: torch.stack([own[n] for own, _ in each]) for n in weights}
    return gradients, torch.stack([loss for _, loss in each])


#: What errors of torch.func say, and those of a user's loss do not.
_OF_TORCH_FUNC = ("vmap", "vjp", "functorch")


def _called(of_one: Any, weights: Any, row: list[Tensor], module: nn.Module) -> Any:
    try:
        gradients, loss = grad_and_value(of_one)(weights, row)
    except RuntimeError as error:
        if not any(words in str(error) for words in _OF_TORCH_FUNC):
            raise
        raise _not_apart(module, str(error).splitlines()[0]) from error
    for parameter, gradient in gradients.items():
        if gradient.layout != torch.strided:
            raise ArgumentError(
                f"the gradient of {parameter!r} is sparse; a diagonal Gaussian moves every weight "
                "at every step. Mend: Embedding(..., sparse=False)."
            )
    return gradients, loss
