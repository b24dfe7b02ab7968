# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""An optimiser's state in a dictionary, and back without loss."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import CheckpointError
from .draws import State, is_rounded, state_dtype
from .noise import Noise
from .skipped import Skipped


def saved(noise: Noise, skipped: Skipped) -> State:
    """What torch's optimisers do not have in their state."""
    return {"noise": noise.state(), "skipped": skipped.state()}


def load(
    state_dict: Mapping[str, Any], groups: Sequence[State], name: str
) -> tuple[Noise, Skipped, dict[Tensor, State]]:
    """The noise, the counts and the state of each parameter, as copies in their own dtype.

    :param groups: the parameter groups of the optimiser that loads.
    :param name: of its class.
    :raises CheckpointError: if something is missing, or belongs to other parameters.
    """
    missing = [k for k in ("state", "param_groups", "noise", "skipped") if k not in state_dict]
    if missing:
        raise CheckpointError(
            f"this is not the state of an {name}: {missing} are missing. Mend: save "
            "optimizer.state_dict() of the same class as a whole."
        )
    numbers = [i for g in state_dict["param_groups"] for i in g["params"]]
    parameters = [p for g in groups for p in g["params"]]
    states = {}
    if len(numbers) == len(parameters):  # else torch says what differs
        for number, parameter in zip(numbers, parameters, strict=True):
            if number in state_dict["state"]:
                held = state_dict["state"][number]
                states[parameter] = _copied(held, parameter, number, name)
    skipped = Skipped(**state_dict["skipped"])
    return Noise.of(state_dict["noise"]), skipped, states


def _copied(held: State, parameter: Tensor, number: Any, name: str) -> State:
    keys = {"step", "momentum", "hessian"} | ({"mean"} if is_rounded(parameter) else set())
    if set(held) != keys:
        raise CheckpointError(
            f"the state of parameter {number} has {sorted(held)}, where {name} has {sorted(keys)} "
            f"for one of {parameter.dtype}. Mend: load the state of an {name} of a module with "
            "the same dtypes."
        )
    tensors = {k: v for k, v in held.items() if k != "step"}
    for key, value in tensors.items():
        if value.shape != parameter.shape or value.dtype != state_dtype(parameter):
            raise CheckpointError(
                f"{key} of parameter {number} has shape {tuple(value.shape)} and {value.dtype}, "
                f"the parameter {tuple(parameter.shape)} and {parameter.dtype}. Mend: load the "
                "state of the same module, with its parameters in the same order."
            )
    copies = {k: v.detach().to(parameter.device, copy=True) for k, v in tensors.items()}
    return {"step": int(held["step"]), **copies}
