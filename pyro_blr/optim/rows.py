# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Parameters with their state: made at the first draw, checked, and sorted into lists."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ArgumentError, DeviceError
from ..lifting import host
from .draws import State, is_rounded, state_dtype
from .sharding import is_sharded, layout, local, place_of


def prepared(parameter: Tensor, state: State, hessian_init: float) -> None:
    """Make a parameter's state if there is none, and check it if there is.

    :raises DeviceError: if the parameter has moved, or changed its dtype or shape.
    """
    dtype = state_dtype(parameter)
    if not state:
        with torch.inference_mode(False), torch.no_grad():  # else steps could not write to it
            state["step"] = 0
            state["momentum"] = torch.zeros_like(parameter, dtype=dtype)
            state["hessian"] = torch.full_like(parameter, hessian_init, dtype=dtype)
            if is_rounded(parameter):
                state["mean"] = parameter.detach().to(dtype, copy=True)
        return
    held = state["hessian"]
    if held.device == parameter.device and held.dtype == dtype and held.shape == parameter.shape:
        return
    raise DeviceError(
        f"a parameter of shape {tuple(parameter.shape)}, {parameter.dtype} on {parameter.device}, "
        f"has a state of shape {tuple(held.shape)}, {held.dtype} on {held.device}: it was moved "
        "after the first draw. Mend: net.to(...) before the optimiser is made; or make a new one "
        "after it and load_state_dict into that."
    )


def check_gradient(parameter: Any) -> None:
    """Refuse a gradient that cannot be used.

    :raises DeviceError: if it is on another device.
    :raises ArgumentError: if it is sparse.
    """
    gradient = parameter.grad
    if gradient.layout != torch.strided:
        raise ArgumentError(
            "a gradient is sparse; a diagonal Gaussian moves every weight at every step. Mend: "
            "Embedding(..., sparse=False)."
        )
    if layout(gradient) != layout(parameter) and is_sharded(gradient):
        parameter.grad = gradient = gradient.redistribute(placements=parameter.placements)
    if gradient.device != parameter.device or gradient.shape != parameter.shape:
        raise DeviceError(
            f"a parameter of shape {tuple(parameter.shape)} on {parameter.device} has a gradient "
            f"of shape {tuple(gradient.shape)} on {gradient.device}. Mend: net.to(...) before "
            "the backward pass, not after it."
        )


def has_only_finite(parameters: Sequence[Tensor]) -> bool:
    """Whether no gradient has a NaN or an infinity; this waits once for each device."""
    sums: dict[torch.device, list[Tensor]] = {}
    for parameter in parameters:
        gradient: Any = parameter.grad
        # A sum costs a third of isfinite, which is asked only where the sum is not finite.
        wide = local(gradient).sum(dtype=state_dtype(parameter))
        sums.setdefault(gradient.device, []).append(wide)
    if all(host.truth(torch.stack([s.double() for s in own]).sum().isfinite()) for own in
           sums.values()):  # fmt: skip
        return True
    gradients: list[Any] = [p.grad for p in parameters]
    return all(host.truth(local(g).isfinite().all()) for g in gradients)


def sorted_by(parameters: Sequence[Tensor], states: Mapping[Any, State]) -> list[list[Tensor]]:
    """Lists of parameters of one device, dtype, place and number of steps."""
    found: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        own = parameter.device, parameter.dtype, place_of(parameter)
        kind = *own, states[parameter]["step"]
        found.setdefault(kind, []).append(parameter)
    return list(found.values())
