# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""A warning where a layer gathers running statistics at drawn weights."""

import gc
import weakref
from collections.abc import Iterable

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import RunningStatisticsWarning, warn


class BatchNormWatch:
    """Finds the layers whose weights an optimiser has, once, and looks at them at each draw.

    An optimiser is given weights, not layers. Hooks on modules would show them as well, but make
    torch compile a module again when they go.
    """

    def __init__(self) -> None:
        self._layers: list[weakref.ref[_NormBase]] | None = None
        self._has_warned = False

    def look(self, parameters: Iterable[Tensor]) -> None:
        """Warn once of a layer that averages its statistics over the calls of training."""
        if self._has_warned:
            return
        if self._layers is None:
            self._layers = [weakref.ref(layer) for layer in _layers_of(parameters)]
        for reference in self._layers:
            layer = reference()
            if layer is not None and layer.training and layer.running_mean is not None:
                self._has_warned = True
                _warn_of(layer)
                return


def _layers_of(parameters: Iterable[Tensor]) -> list[_NormBase]:
    """The batch and instance norms of the process that have these weights, or are beside them."""
    own = {id(p) for p in parameters}
    objects = gc.get_objects()
    kinds = {kind for kind in set(map(type, objects)) if issubclass(kind, _NormBase)}
    layers: list[_NormBase] = [o for o in objects if type(o) in kinds] if kinds else []
    found = [layer for layer in layers if layer.affine and id(layer.weight) in own]
    if all(layer.affine for layer in layers):
        return found
    # One without weights of its own is known by the modules that it is within.
    around = {kind for kind in set(map(type, objects)) if issubclass(kind, nn.Module)}
    modules: list[nn.Module] = [o for o in objects if type(o) in around]
    for module in modules:
        if any(id(p) in own for p in module.parameters()):
            found += [m for m in module.modules() if isinstance(m, _NormBase) and not m.affine]
    return found


def _warn_of(layer: _NormBase) -> None:
    warn(
        f"{type(layer).__name__} gathers its running mean and variance at drawn weights, another "
        "draw at each step; at the mean weights, and at the draws of a prediction, activations "
        "have other statistics, and accuracy in eval() suffers. Mend: GroupNorm or LayerNorm in "
        "its place, or track_running_stats=False.",
        RunningStatisticsWarning,
    )
