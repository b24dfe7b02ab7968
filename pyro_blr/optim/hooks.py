# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A look at the gradient of each backward pass before it is added to ``.grad``."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class GradientHook:
    """Calls a function with a parameter and each gradient that autograd adds to its ``.grad``.

    What a reducer such as DistributedDataParallel averages is in ``.grad`` only after it. Gradients
    that ``torch.autograd.grad`` returns are not added, and not seen here.
    """

    def __init__(self, parameter: Tensor, function: Callable[[Tensor, Tensor], None]) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            # The node that adds; held here, as a tensor does not hold its own.
            view: Any = parameter.view_as(parameter).grad_fn
        self._node: Any = view.next_functions[0][0]

        @torch.no_grad()
        def before(gradients: tuple[Tensor | None, ...]) -> None:
            if gradients[0] is not None:
                function(parameter, gradients[0])

        self._handle = self._node.register_prehook(before)

    def remove(self) -> None:
        """Look no longer."""
        self._handle.remove()
