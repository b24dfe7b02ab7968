# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A module called with other tensors in the place of its own."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.func import functional_call


def called_with(
    module: nn.Module, values: Mapping[str, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """What a module returns with some values; its own tensors are back afterwards.

    A tensor that is in several places, as tied weights are, has its value in all of them. Torch
    finds these by names, and puts a value back once for each: in a layer that has two names, as one
    that is applied twice does, the second time what comes back is the value in its place.

    :param values: in the place of parameters and buffers, by the first of their names.
    :param args: of the module.
    :param kwargs: of the module.
    """
    held = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    meant = {held[name]: value for name, value in values.items()}
    places = {}
    for prefix, layer in module.named_modules():  # each once
        own = (
            *layer.named_parameters(prefix, recurse=False, remove_duplicate=False),
            *layer.named_buffers(prefix, recurse=False, remove_duplicate=False),
        )
        places.update({name: meant[tensor] for name, tensor in own if tensor in meant})
    return functional_call(module, places, args, kwargs, tie_weights=False)
