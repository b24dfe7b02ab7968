# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Functions that are computed on the host, wherever their tensors and torch's default device are.

Statistics of a few thousand draws: small operations in a row, which an accelerator is no help with.
"""

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

P = ParamSpec("P")
R = TypeVar("R")


def on_host(function: Callable[P, R]) -> Callable[P, R]:
    """Bring the tensors among a function's arguments to the host, and make its own there."""

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        there, named = pytree.tree_map_only(Tensor, _there, (args, kwargs))
        with torch.device("cpu"):
            return function(*there, **named)

    return computed


def _there(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()
