# Copyright Contributors to the pyro_blr project.
# SPDX-License-Identifier: Apache-2.0

"""An optimiser's state in a dictionary, and back without loss."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import ChangedRanksWarning, CheckpointError, warn
from .draws import State, is_rounded, state_dtype
from .noise import Noise
from .ranks import OneRank
from .sharding import layout
from .skipped import Skipped


def saved(noise: Noise, skipped: Skipped) -> State:
    """What torch's optimisers do not have in their state."""
    return {"noise": noise.state(), "skipped": skipped.state()}


def load(
    state_dict: Mapping[str, Any],
    groups: Sequence[State],
    name: str,
    ranks: OneRank,
    kept: Sequence[str],
) -> tuple[Noise, Skipped, dict[Tensor, State]]:
    """The noise, the counts and the state of each parameter, as copies in their own dtype.

    :param groups: the parameter groups of the optimiser that loads.
    :param name: of its class.
    :param ranks: those that it is on.
    :param kept: what it keeps of a parameter, beside the number of steps.
    :raises CheckpointError: if something is missing, or belongs to other parameters.
    """
    missing = [k for k in ("state", "param_groups", "noise", "skipped") if k not in state_dict]
    if missing:
        raise CheckpointError(
            f"this is not the state of an {name}: {missing} are missing. Mend: save "
            "optimizer.state_dict() of the same class as a whole."
        )
    _check_groups(state_dict["param_groups"], groups, name)
    numbers = [i for g in state_dict["param_groups"] for i in g["params"]]
    parameters = [p for g in groups for p in g["params"]]
    states = {}
    if len(numbers) == len(parameters):  # else torch says what differs
        for number, parameter in zip(numbers, parameters, strict=True):
            if number in state_dict["state"]:
                # torch.distributed.checkpoint reads numbers into keys that are strings.
                held = {**state_dict["state"][number], **state_dict["state"].get(str(number), {})}
                states[parameter] = _copied(held, parameter, number, name, kept)
    skipped = Skipped(**state_dict["skipped"])
    return _noise(state_dict, ranks, name), skipped, states


def _check_groups(held: Sequence[State], groups: Sequence[State], name: str) -> None:
    """Refuse options of another optimiser, and parameters that are in another order by name."""
    for theirs, own in zip(held, groups, strict=False):  # torch says if their number differs
        missing = sorted(own.keys() - theirs.keys() - {"param_names"})
        if missing:
            raise CheckpointError(
                f"this is not the state of an {name}: its groups have no {missing}. Mend: load the "
                "state of the same class."
            )
    names, own_names = ([n for g in gs for n in g.get("param_names", ())] for gs in (held, groups))
    if names != own_names and sorted(names) == sorted(own_names):
        raise CheckpointError(
            f"the state has its parameters in the order {names}, this {name} in the order "
            f"{own_names}, and they are matched by their places. Mend: groups in the same order."
        )


def _noise(state_dict: Mapping[str, Any], ranks: OneRank, name: str) -> Noise:
    held, size = state_dict["noise"], state_dict.get("ranks", 1)
    if size == ranks.size:
        return ranks.noise_of(held)
    warn(
        f"the state was saved on {size} ranks, and this {name} is on {ranks.size}: training goes "
        "on from the same posterior, but not as it would have gone on: the noise is another, and a "
        f"step is the mean of draws of {ranks.size} ranks. Mend: nothing, or start {size} ranks.",
        ChangedRanksWarning,
    )
    fresh = ranks.noise(int(held["seed"]))
    fresh.steps = int(held.get("steps", 0))
    return fresh


def _copied(held: State, parameter: Tensor, number: Any, name: str, kept: Sequence[str]) -> State:
    keys = {"step", *kept} | ({"mean"} if is_rounded(parameter) else set())
    if set(held) != keys:
        raise CheckpointError(
            f"the state of parameter {number} has {sorted(held)}, where {name} has {sorted(keys)} "
            f"for one of {parameter.dtype}. Mend: load the state of an {name} of a module with "
            "the same dtypes."
        )
    tensors = {k: v for k, v in held.items() if k != "step"}
    for key, value in tensors.items():
        if value.shape == parameter.shape and layout(value) != layout(parameter):
            raise CheckpointError(
                f"{key} of parameter {number} is not spread over the ranks as the parameter is. "
                "Mend: save and load with torch.distributed.checkpoint, which brings each rank "
                "its part; or start as many ranks as there were."
            )
        if value.shape != parameter.shape or value.dtype != state_dtype(parameter):
            raise CheckpointError(
                f"{key} of parameter {number} has shape {tuple(value.shape)} and {value.dtype}, "
                f"the parameter {tuple(parameter.shape)} and {parameter.dtype}. Mend: load the "
                "state of the same module, with its parameters in the same order."
            )
    copies = {k: v.detach().to(parameter.device, copy=True) for k, v in tensors.items()}
    return {"step": int(held["step"]), **copies}
