# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""The tensors among a model's arguments that it does not observe: covariates, indices, sizes."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..draws import Draws
from ..draws.dims import Dims


def constants(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    observed: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Tensors and arrays by the names that the model's signature gives them.

    What a list or a dictionary holds has the argument's name and its own: ``rows_x`` for
    ``rows["x"]``. What equals the data of an observed site, in whatever shape, is left out.
    """
    found: dict[str, Tensor] = {}
    for name, value in _named(model, args, kwargs):
        for own, tensor in _tensors(name, value):
            if own not in observed and not any(_is_data(tensor, d) for d in observed.values()):
                found[own] = tensor
    return found


def _named(
    model: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    try:
        signature = inspect.signature(model)
        bound = signature.bind(*args, **kwargs)
    except (TypeError, ValueError):  # no signature
        yield from ((f"arg_{i}", value) for i, value in enumerate(args))
        yield from kwargs.items()
        return
    for name, value in bound.arguments.items():
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield name, value


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value.detach()
    elif isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        yield name, torch.as_tensor(value)
    elif isinstance(value, Mapping):
        for key, own in value.items():
            yield from _tensors(f"{name}_{key}", own)
    elif isinstance(value, (list, tuple)):
        for i, own in enumerate(value):
            yield from _tensors(f"{name}_{i}", own)


def _is_data(value: Tensor, data: Tensor) -> bool:
    if value.numel() != data.numel() or value.numel() == 0:
        return False
    left, right = (t.detach().cpu().double().reshape(-1) for t in (value, data))
    return bool(((left == right) | (left.isnan() & right.isnan())).all())


def dims_of_constant(value: Tensor, draws: Draws) -> Dims:
    """The dims of an argument: that of the data along which alone it can be, by its size."""
    shape = tuple(value.shape)
    sizes: dict[int, set[str]] = {}
    for dims in draws.likelihood_dims.values():
        for plate, size in zip(dims.plates, dims.shape, strict=True):
            if plate:
                sizes.setdefault(size, set()).add(plate)
    plates: list[str | None] = []
    for size in shape:
        named = sizes.get(size, set())
        is_sure = size > 1 and len(named) == 1 and shape.count(size) == 1
        plates.append(next(iter(named)) if is_sure else None)
    return Dims(shape, 0, tuple(plates))
