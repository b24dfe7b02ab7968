# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A warning where a layer gathers running statistics at drawn weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.module import register_module_forward_pre_hook

from ..errors import RunningStatisticsWarning, warn


@contextmanager
def watched() -> Iterator[None]:
    """Warn once of a layer that is called in here and averages statistics over calls."""
    said: list[str] = []

    def look(module: nn.Module, _: Any) -> None:
        if said or not isinstance(module, _NormBase):
            return
        if module.training and module.running_mean is not None:
            said.append(type(module).__name__)

    handle = register_module_forward_pre_hook(look)
    try:
        yield
    finally:
        handle.remove()
    if said:
        warn(
            f"{said[0]} gathers its running mean and variance at drawn weights, another draw at "
            "each step; at the mean weights, and at the draws of a prediction, activations have "
            "other statistics, and accuracy in eval() suffers. Mend: GroupNorm or LayerNorm in "
            "its place, or track_running_stats=False.",
            RunningStatisticsWarning,
        )
