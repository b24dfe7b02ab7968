# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Parameters of which each process has a part: FSDP's and other ``DTensor`` ones."""

import gc
import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from .noise import Place


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor is a ``DTensor``, spread over a mesh of processes."""
    return hasattr(tensor, "device_mesh")


def local(tensor: Any) -> Tensor:
    """The part of a tensor that this process has, on the same memory; mostly all of it."""
    found: Tensor = tensor.to_local() if is_sharded(tensor) else tensor
    return found


def all_local(tensors: Iterable[Tensor]) -> list[Tensor]:
    """The parts that this process has."""
    return [local(t) for t in tensors]


def whole(tensor: Any) -> Tensor:
    """All of a tensor; where it is sharded each process has to ask."""
    found: Tensor = tensor.full_tensor() if is_sharded(tensor) else tensor
    return found


def layout(tensor: Any) -> Any:
    """How a tensor is spread; None where it is not."""
    return (tensor.device_mesh, tuple(tensor.placements)) if is_sharded(tensor) else None


def place_of(parameter: Any) -> Place:
    """Which part of a parameter this process has: copies of one part have the same noise."""
    if not is_sharded(parameter):
        return ()
    coordinates = parameter.device_mesh.get_coordinate() or ()
    pairs = zip(parameter.placements, coordinates, strict=False)
    return tuple(c for placement, c in pairs if placement.is_shard())


def meshes_of(parameters: Iterable[Any]) -> list[Any]:
    """The meshes that parameters are spread over, each once."""
    found: list[Any] = []
    for parameter in parameters:
        if is_sharded(parameter) and parameter.device_mesh not in found:
            found.append(parameter.device_mesh)
    return found


class Gathered:
    """Finds FSDP's modules once, and frees the whole weights that they keep after a forward pass.

    After one without a backward pass these would stay in use when the weights have moved.
    """

    def __init__(self) -> None:
        self._modules: list[weakref.ref[Any]] | None = None

    def free(self, parameters: Sequence[Tensor]) -> None:
        """Have the next forward pass gather the weights as they are now."""
        if self._modules is None:
            is_any = any(is_sharded(p) for p in parameters)
            self._modules = _modules_of(parameters) if is_any else []
        for reference in self._modules:
            module = reference()
            if module is not None:
                module.reshard()


def _modules_of(parameters: Sequence[Tensor]) -> list["weakref.ref[Any]"]:
    try:
        from torch.distributed.fsdp import FSDPModule
    except ImportError:  # before torch 2.6
        return []
    own = {id(p) for p in parameters}
    kinds = {kind for kind in set(map(type, gc.get_objects())) if issubclass(kind, FSDPModule)}
    modules: list[Any] = [thing for thing in gc.get_objects() if type(thing) in kinds]
    for module in modules:
        module.reshard()  # whose parameters are else the gathered ones
    return [weakref.ref(m) for m in modules if any(id(p) in own for p in m.parameters())]
