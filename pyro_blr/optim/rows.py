# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""Parameters with their state: made at the first draw, checked, and sorted into lists."""

from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ..errors import ArgumentError, DeviceError
from ..lifting import host
from .draws import State, is_rounded, state_dtype
from .sharding import is_sharded, layout, local, place_of


def prepared(parameter: Tensor, state: State, first: Mapping[str, float]) -> None:
    """Make a parameter's state if there is none, and check it if there is.

    :param first: the first value of each tensor of it; the last one is checked.
    :raises ArgumentError: if the parameter has no shape yet.
    :raises DeviceError: if the parameter has moved, or changed its dtype or shape.
    """
    dtype = state_dtype(parameter)
    if not state:
        state.update(_first_state(parameter, first))
        return
    held = state[list(first)[-1]]
    if held.device == parameter.device and held.dtype == dtype and held.shape == parameter.shape:
        return
    raise DeviceError(
        f"a parameter of shape {tuple(parameter.shape)}, {parameter.dtype} on {parameter.device}, "
        f"has a state of shape {tuple(held.shape)}, {held.dtype} on {held.device}: it was moved "
        "after the first draw. Mend: net.to(...) before the optimiser is made; or make a new one "
        "after it and load_state_dict into that."
    )


def _first_state(parameter: Tensor, first: Mapping[str, float]) -> State:
    dtype = state_dtype(parameter)
    if is_lazy(parameter):
        raise ArgumentError(
            "a parameter of a lazy layer has no shape yet. Mend: call the net once before the "
            "first draw, `net(x)`."
        )
    with torch.inference_mode(False), torch.no_grad():  # else steps could not write to it
        state: State = {"step": 0}
        for name, value in first.items():
            state[name] = torch.full_like(parameter, value, dtype=dtype)
        if is_rounded(parameter):
            state["mean"] = parameter.detach().to(dtype, copy=True)
    return state


def check_gradient(parameter: Any) -> None:
    """Refuse a gradient that cannot be used.

    :raises DeviceError: if it is on another device.
    :raises ArgumentError: if it is sparse.
    """
    gradient = parameter.grad
    if gradient.layout != torch.strided:
        raise ArgumentError(
            "a gradient is sparse, and a step moves every weight. Mend: "
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


def has_only_finite(parameters: Sequence[Tensor], sums: Sequence[Tensor] = ()) -> bool:
    """Whether all gradients are finite, and their squares; this waits once for each device.

    A Hessian is made of squares: where one is infinite, so would h be from then on.

    :param sums: of squares, which have to be finite too.
    """
    norms: dict[torch.device, list[Tensor]] = {}
    for parameter in parameters:
        gradient: Any = parameter.grad
        # A norm costs half of isfinite, which is asked only where the norm is not finite.
        norm = torch.linalg.vector_norm(local(gradient), dtype=state_dtype(parameter))
        norms.setdefault(gradient.device, []).append(norm)
    for squares in sums:
        norms.setdefault(squares.device, []).append(squares.sum())
    if all(host.truth(torch.stack([n.double() for n in held]).isfinite().all()) for held in
           norms.values()):  # fmt: skip
        return True
    own = (local(p.grad).to(state_dtype(p)).square() for p in parameters)
    return all(host.truth(squares.isfinite().all()) for squares in chain(own, sums))


def sorted_by(parameters: Sequence[Tensor], states: Mapping[Any, State]) -> list[list[Tensor]]:
    """Lists of parameters of one device, dtype, place and number of steps."""
    found: dict[Any, list[Tensor]] = {}
    for parameter in parameters:
        own = parameter.device, parameter.dtype, place_of(parameter)
        kind = *own, states[parameter]["step"]
        found.setdefault(kind, []).append(parameter)
    return list(found.values())
